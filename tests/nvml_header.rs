//! NVIDIA's own nvml.h, of several CUDA releases, is the judge of the structs, versions, codes and
//! functions that gpushare relies on.

#![allow(clippy::unwrap_used, reason = "tests fail by panics")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::mem::offset_of;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use gpushare_core::port::NvmlReturn;
use gpushare_tests::nvidia::{called, skipped};
use nvml_wrapper_sys::bindings as sys;

/// The newest code of an error came with CUDA 13.
const LAST_CODE: u32 = 30;

/// Of the package index, with the version where it is not to be the newest; and what of all that
/// gpushare relies on they do not have yet.
const HEADERS: [(&str, &[&str]); 4] = [
    ("nvidia-nvml-dev", &[]),
    ("nvidia-nvml-dev==13.4.92", &[]),
    ("nvidia-nvml-dev-cu12==12.9.79", &["NVML_ERROR_RESET_TYPE_NOT_SUPPORTED"]),
    (
        "nvidia-nvml-dev-cu11==11.8.86",
        &[
            "NVML_ERROR_DEPRECATED",
            "NVML_ERROR_GPU_NOT_FOUND",
            "NVML_ERROR_INVALID_STATE",
            "NVML_ERROR_NOT_READY",
            "NVML_ERROR_RESET_TYPE_NOT_SUPPORTED",
            "NVML_GPU_INSTANCE_PROFILE_1_SLICE_ALL_ME",
            "NVML_GPU_INSTANCE_PROFILE_1_SLICE_GFX",
            "NVML_GPU_INSTANCE_PROFILE_1_SLICE_NO_ME",
            "NVML_GPU_INSTANCE_PROFILE_1_SLICE_REV2",
            "NVML_GPU_INSTANCE_PROFILE_2_SLICE_ALL_ME",
            "NVML_GPU_INSTANCE_PROFILE_2_SLICE_GFX",
            "NVML_GPU_INSTANCE_PROFILE_2_SLICE_NO_ME",
            "NVML_GPU_INSTANCE_PROFILE_2_SLICE_REV1",
            "NVML_GPU_INSTANCE_PROFILE_4_SLICE_GFX",
            "nvmlGpuInstanceCreateComputeInstanceWithPlacement",
            "nvmlGpuInstanceGetComputeInstancePossiblePlacements",
            "nvmlGpuInstanceProfileInfo_v3",
            "nvmlGpuInstanceProfileInfo_v3_t",
        ],
    ),
];

/// Expressions of C, and what they are in Rust.
struct Facts(Vec<(String, u64)>);

macro_rules! layouts {
    ($facts:ident: $($name:ident { $($field:ident),* })*) => {$(
        $facts.add(format!("sizeof({})", stringify!($name)), size_of::<sys::$name>() as u64);
        $(
            let field = stringify!($field).trim_end_matches('_');
            let of = format!("offsetof({}, {field})", stringify!($name));
            $facts.add(of, offset_of!(sys::$name, $field) as u64);
        )*
    )*};
}

impl Facts {
    fn add(&mut self, expression: impl Into<String>, value: u64) {
        self.0.push((expression.into(), value));
    }

    fn gather() -> Self {
        let mut facts = Self(Vec::new());
        layouts! { facts:
            nvmlPciInfo_t { busIdLegacy, domain, bus, device, pciDeviceId, pciSubSystemId, busId }
            nvmlMemory_t { total, free, used }
            nvmlProcessInfo_v2_t { pid, usedGpuMemory, gpuInstanceId, computeInstanceId }
            nvmlProcessInfo_t { pid, usedGpuMemory, gpuInstanceId, computeInstanceId }
            nvmlDeviceAttributes_t {
                multiprocessorCount, gpuInstanceSliceCount, computeInstanceSliceCount, memorySizeMB
            }
            nvmlGpuInstancePlacement_t { start, size }
            nvmlGpuInstanceProfileInfo_t {
                id, isP2pSupported, sliceCount, instanceCount, multiprocessorCount,
                copyEngineCount, decoderCount, encoderCount, jpegCount, ofaCount, memorySizeMB
            }
            nvmlGpuInstanceProfileInfo_v2_t {
                version, id, isP2pSupported, sliceCount, instanceCount, multiprocessorCount,
                copyEngineCount, decoderCount, encoderCount, jpegCount, ofaCount, memorySizeMB,
                name
            }
            nvmlGpuInstanceProfileInfo_v3_t {
                version, id, sliceCount, instanceCount, multiprocessorCount, copyEngineCount,
                decoderCount, encoderCount, jpegCount, ofaCount, memorySizeMB, name, capabilities
            }
            nvmlGpuInstanceInfo_t { device, id, profileId, placement }
            nvmlComputeInstancePlacement_t { start, size }
            nvmlComputeInstanceProfileInfo_t {
                id, sliceCount, instanceCount, multiprocessorCount, sharedCopyEngineCount
            }
            nvmlComputeInstanceInfo_t { device, gpuInstance, id, profileId, placement }
        }
        let version = |size: usize, version: u64| size as u64 | version << 24;
        let v2 = size_of::<sys::nvmlGpuInstanceProfileInfo_v2_t>();
        let v3 = size_of::<sys::nvmlGpuInstanceProfileInfo_v3_t>();
        facts.add("nvmlGpuInstanceProfileInfo_v2", version(v2, 2));
        facts.add("nvmlGpuInstanceProfileInfo_v3", version(v3, 3));
        facts.add("NVML_COMPUTE_INSTANCE_ENGINE_PROFILE_SHARED", 0);
        facts.add("NVML_COMPUTEMODE_DEFAULT", 0);
        facts.add("NVML_COMPUTEMODE_PROHIBITED", 2);
        facts.add("NVML_COMPUTEMODE_EXCLUSIVE_PROCESS", 3);
        facts.add("NVML_DEVICE_MIG_ENABLE", 1);
        // Texts are asked for with room for 96 characters.
        facts.add("NVML_DEVICE_UUID_V2_BUFFER_SIZE", 96);
        facts.add("NVML_DEVICE_NAME_V2_BUFFER_SIZE", 96);
        facts.add("NVML_SYSTEM_DRIVER_VERSION_BUFFER_SIZE", 80);
        for (name, index) in [
            ("1_SLICE", 0),
            ("7_SLICE", 4),
            ("1_SLICE_REV1", 7),
            ("2_SLICE_REV1", 8),
            ("1_SLICE_REV2", 9),
            ("1_SLICE_GFX", 10),
            ("2_SLICE_GFX", 11),
            ("4_SLICE_GFX", 12),
            ("1_SLICE_NO_ME", 13),
            ("2_SLICE_NO_ME", 14),
            ("1_SLICE_ALL_ME", 15),
            ("2_SLICE_ALL_ME", 16),
        ] {
            facts.add(format!("NVML_GPU_INSTANCE_PROFILE_{name}"), index);
        }
        for code in (1..=LAST_CODE).chain([999]) {
            let name = NvmlReturn(code).name();
            facts.add(format!("NVML_ERROR_{name}"), code.into());
        }
        facts
    }

    /// The names of NVML's in all expressions that a header does not have. Takes away the expressions
    /// that have one.
    fn take_missing(&mut self, header: &BTreeSet<&str>) -> BTreeSet<String> {
        let mut missing = BTreeSet::new();
        self.0.retain(|(expression, _)| {
            let names = words(expression).filter(|word| word.to_lowercase().starts_with("nvml"));
            let lacking: Vec<_> = names.filter(|name| !header.contains(name)).collect();
            missing.extend(lacking.iter().map(|name| (*name).to_owned()));
            lacking.is_empty()
        });
        missing
    }

    fn program(&self) -> String {
        let mut text =
            "#include <stddef.h>\n#include <stdio.h>\n#include <nvml.h>\nint main(void) {\n"
                .to_owned();
        for (expression, _) in &self.0 {
            writeln!(text, "    printf(\"%llu\\n\", (unsigned long long)({expression}));").unwrap();
        }
        text + "    return 0;\n}\n"
    }
}

/// The names in a text of C.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
}

/// The folder of NVIDIA's header, of that package of the Python package index.
fn header(package: &str) -> Result<PathBuf, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/nvidia").join(package);
    let find = || {
        let found = Command::new("find").arg(&folder).args(["-name", "nvml.h"]).output().ok()?;
        let path = String::from_utf8(found.stdout).ok()?;
        Some(Path::new(path.lines().next()?).parent()?.to_owned())
    };
    if let Some(found) = find() {
        return Ok(found);
    }
    let python = |arguments: &[&str]| -> Result<(), String> {
        let ran = Command::new("python3").arg("-m").args(arguments).output();
        let Output { status, stderr, .. } = ran.map_err(|error| error.to_string())?;
        let said = String::from_utf8_lossy(&stderr);
        status.success().then_some(()).ok_or(said.lines().last().unwrap_or_default().to_owned())
    };
    let at = folder.to_str().ok_or("the target folder has a name that is not UTF-8")?;
    python(&["pip", "download", "--quiet", "--no-deps", "--dest", at, package])?;
    let wheel = std::fs::read_dir(&folder).map_err(|error| error.to_string())?;
    let mut wheels = wheel.flatten().map(|entry| entry.path());
    let wheel = wheels.find(|path| path.extension().is_some_and(|extension| extension == "whl"));
    let wheel = wheel.ok_or("pip fetched no wheel")?;
    python(&["zipfile", "-e", wheel.to_str().ok_or("a wheel without a name")?, at])?;
    find().ok_or_else(|| "the wheel has no nvml.h".to_owned())
}

#[test]
fn layouts_versions_codes_and_functions_are_those_of_nvml_h() {
    let folder = tempfile::tempdir().unwrap();
    let (source, program) = (folder.path().join("facts.c"), folder.path().join("facts"));
    for (package, expected) in HEADERS {
        let header = match header(package) {
            Ok(header) => header,
            Err(why) => {
                skipped(&format!("nvml.h of {package}"), &why);
                continue;
            }
        };
        let declared = std::fs::read(header.join("nvml.h")).unwrap();
        let declared = String::from_utf8_lossy(&declared);
        let declared: BTreeSet<_> = words(&declared).collect();
        let mut facts = Facts::gather();
        let mut missing = facts.take_missing(&declared);
        missing.extend(called().into_iter().filter(|name| !declared.contains(name.as_str())));
        let missing: Vec<_> = missing.iter().map(String::as_str).collect();
        assert_eq!(missing, expected, "{package}");

        std::fs::write(&source, facts.program()).unwrap();
        let mut compiler = Command::new("cc");
        compiler.arg("-I").arg(&header).arg("-o").arg(&program).arg(&source);
        let Ok(compiled) = compiler.output() else {
            return skipped("nvml.h", "there is no C compiler");
        };
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        let output = Command::new(&program).output().unwrap();
        let values = String::from_utf8(output.stdout).unwrap();
        let values: Vec<u64> = values.lines().map(|line| line.parse().unwrap()).collect();
        let expressions = facts.0.iter().map(|(expression, _)| expression.clone());
        let of_c: Vec<(String, u64)> = expressions.zip(values).collect();
        assert_eq!(of_c, facts.0, "{package}");
    }
}
