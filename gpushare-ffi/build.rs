//! Gives the shared library its soname, which changes whenever the ABI breaks: with the major version.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let abi = env!("CARGO_PKG_VERSION_MAJOR");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libgpushare.so.{abi}");
}
