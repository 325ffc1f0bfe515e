//! Gives the shared library its soname, which changes whenever the ABI breaks.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libgpushare.so.0");
}
