//! Which of NVIDIA's MPS interfaces a daemon speaks.

use serde::{Deserialize, Serialize};

use crate::parameters::Access;

/// Which of NVIDIA's MPS interfaces a program or daemon speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Dialect {
    /// The commands of the drivers up to 580.
    V2,
    /// The same with static partitions of SMs: from driver 590.
    V2StaticPartitioning,
    /// Named servers and namespaces: from driver 615.
    V3,
}

/// What not every daemon has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Feature {
    /// `ps`: from driver 535 on (470 lacks it).
    ProcessList,
    /// `terminate_client`: from driver 535 on.
    TerminateClient,
    /// Memory limits: from driver 535 on.
    MemoryLimit,
    /// The clients' priority: from driver 535 on.
    Priority,
    /// `get_server_status`: from driver 550 on.
    ServerStatus,
    /// `device_query`: driver 580 has it, 555 does not.
    DeviceQuery,
}

impl Dialect {
    /// The dialect of a program that prints that when it is asked for help.
    ///
    /// Up to driver 555 that is a paragraph without a word on options. What is not recognised is
    /// taken for the oldest.
    pub fn of_help(text: &str) -> Self {
        let words = || {
            text.split(|c: char| {
                c.is_whitespace() || matches!(c, ',' | '|' | '[' | ']' | '=' | ';')
            })
        };
        // An option of the program's own stands at the beginning of its line: driver 580 prints
        // `ps [-p PID]` among its commands.
        let option = |name: &str| {
            text.lines().any(|line| {
                let line = line.trim_start();
                let words = line.split(|c: char| c.is_whitespace() || matches!(c, ',' | '='));
                line.starts_with('-') && words.take_while(|w| w.starts_with('-')).any(|w| w == name)
            })
        };
        let command = |first: &str, second: &str| {
            words().zip(words().skip(1)).any(|pair| pair == (first, second))
        };
        if option("-p") || command("server", "list") || command("server", "create") {
            Self::V3
        } else if option("-S") || option("--static-partitioning") {
            Self::V2StaticPartitioning
        } else {
            Self::V2
        }
    }

    /// The most clients of one device: 48, and 60 from CUDA 13.1 on (NVIDIA's MPS guide; 48 was
    /// measured on driver 580). It holds for GPUs from Volta on and as long as clients do not
    /// raise `CUDA_DEVICE_MAX_CONNECTIONS`; a MIG device takes fewer.
    pub const fn most_clients(self) -> u32 {
        match self {
            Self::V2 => 48,
            Self::V2StaticPartitioning | Self::V3 => 60,
        }
    }
}

/// The driver's major version, where those whom a daemon serves can change what it gives: up to driver
/// 535 (measured on 470 and 535; 550 refuses everybody but root and the daemon's own user).
pub(crate) fn anyone_may_set(driver: &str, access: &Access) -> Option<u32> {
    let major = driver.split('.').next()?.parse::<u32>().ok()?;
    let others = !matches!(access, Access::User(user) if user == "0" || user == "root");
    (major < 550 && others).then_some(major)
}

impl Feature {
    /// The first driver known to have it, by its major version.
    pub const fn since(self) -> u32 {
        match self {
            Self::ProcessList | Self::TerminateClient | Self::MemoryLimit | Self::Priority => 535,
            Self::ServerStatus => 550,
            Self::DeviceQuery => 580,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What programs of drivers 470 to 555 print, but for the year.
    const PARAGRAPH: &str = "CUDA MPS Control for Linux/Unix.
Copyright (C) 2003 - 2024 NVIDIA Corporation.

  This program allows multiple CUDA processes to share a single GPU context. For information on \
  how to use the CUDA MPS, see the nvidia-cuda-mps-control manual page.
";

    #[test]
    fn dialects_are_told_by_their_help() {
        let v2 = "Usage: nvidia-cuda-mps-control [options]\n -d, --daemon\n -f, --forground\n \
                  -M, --multiuser-server\n -q, --ready-devices\n -h, --help\n\nCOMMAND:\n  \
                  get_server_list\n  ps [-p PID]\n  device_query [<PID>] [-S]\n";
        assert_eq!(Dialect::of_help(PARAGRAPH), Dialect::V2);
        assert_eq!(Dialect::of_help(v2), Dialect::V2);
        assert_eq!(Dialect::of_help(""), Dialect::V2);
        let partitions = format!("{v2} -S,--static-partitioning\n");
        assert_eq!(Dialect::of_help(&partitions), Dialect::V2StaticPartitioning);
        assert_eq!(Dialect::of_help(&format!("{partitions} -p <version>\n")), Dialect::V3);
        assert_eq!(Dialect::of_help("modules:\n  server list\n"), Dialect::V3);
    }

    proptest! {
        #[test]
        fn any_text_is_some_dialect(text: String) {
            let _ = Dialect::of_help(&text);
        }
    }
}
