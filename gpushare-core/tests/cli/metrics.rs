//! `metrics`: what is counted, and for whom.

use std::collections::BTreeMap;

use crate::place::Place;

/// The samples: name with labels, and value.
fn samples(place: &Place) -> BTreeMap<String, f64> {
    let text = place.done(&["metrics"]).stdout;
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let samples: Vec<_> = lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        })
        .collect();
    let count = samples.len();
    let samples: BTreeMap<_, _> = samples.into_iter().collect();
    assert_eq!(samples.len(), count, "a sample is there twice:\n{text}");
    samples
}

fn sum(samples: &BTreeMap<String, f64>, name: &str, part: &str) -> f64 {
    let named = |key: &&String| key.split('{').next() == Some(name) && key.contains(part);
    samples.keys().filter(named).map(|key| samples[key]).sum()
}

#[test]
fn each_process_counts_for_the_lease_that_it_is_there_by() {
    let place = Place::new("1xH200-141GB,1xL40S");
    place.done(&["mps", "enable", "-i", "0", "--thread-percentage", "50", "--max-clients", "2"]);
    let mut tenant = place.start(&["run", "-i", "0", "--", "sleep", "60"]);
    let pid = tenant.id().to_string();
    let since = std::time::Instant::now();
    while sum(&samples(&place), "gpushare_share_leased", "") < 1.0 {
        assert!(since.elapsed() < crate::place::PATIENCE);
    }
    let busy =
        |more: &[&str]| place.done(&[&["sim", "busy", "0", "--memory", "3GiB"], more].concat());
    busy(&["--pid", &pid, "--kind", "mps-client"]);
    busy(&["--kind", "mps-client", "--command", "evil\"} 1\n# "]);
    let seen = samples(&place);
    assert_eq!(sum(&seen, "gpushare_share_memory_bytes", ""), 3.0 * f64::from(1 << 30));
    assert_eq!(sum(&seen, "gpushare_share_processes", ""), 1.0);
    assert_eq!(sum(&seen, "gpushare_process_memory_bytes", ""), 6.0 * f64::from(1 << 30));
    assert_eq!(sum(&seen, "gpushare_process_memory_bytes", "share=\"\""), 3.0 * f64::from(1 << 30));
    assert_eq!(sum(&seen, "gpushare_mps_clients", ""), 2.0);
    assert_eq!(sum(&seen, "gpushare_mps_thread_percentage", ""), 50.0);
    assert_eq!(sum(&seen, "gpushare_gpu_mode", "mode=\"mps\""), 1.0);
    assert_eq!(sum(&seen, "gpushare_gpu_mode", ""), 2.0, "each GPU is in one mode");
    tenant.kill().unwrap();
    tenant.wait().unwrap();
}

#[test]
fn transitions_are_counted_by_what_came_of_them() {
    let place = Place::new("1xH200-141GB");
    let count = |outcome: &str| {
        sum(&samples(&place), "gpushare_transitions_total", &format!("outcome=\"{outcome}\""))
    };
    assert_eq!(count("applied"), 0.0);
    place.done(&["exclusive"]);
    // Nothing to do is no transition.
    place.done(&["exclusive"]);
    assert_eq!(count("applied"), 1.0);
    place.run(&["mps", "enable", "--thread-percentage", "40"]).expect_error("HAZARD");
    assert_eq!(sum(&samples(&place), "gpushare_transitions_total", ""), 1.0, "refused is none");
    assert_eq!(sum(&samples(&place), "gpushare_hazard_in_force", ""), 0.0);
    place.done(&[
        "mps",
        "enable",
        "--thread-percentage",
        "40",
        "--allow-hazard",
        "hopper-partial-sm",
    ]);
    assert_eq!(sum(&samples(&place), "gpushare_hazard_in_force", "hopper-partial-sm"), 1.0);
    place.done(&["sim", "fault", "nvmlDeviceSetMigMode", "UNKNOWN"]);
    place.run(&["mig", "enable"]).expect(1);
    assert_eq!((count("applied"), count("rolled_back")), (2.0, 1.0));
}

#[test]
fn a_file_is_written_whole_and_json_is_refused() {
    let place = Place::new("1xA30-24GB");
    let file = place.path().join("gpushare.prom");
    place.done(&["metrics", "-o", file.to_str().unwrap()]);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), place.done(&["metrics"]).stdout);
    place.run(&["metrics", "--json"]).expect_error("INVALID_ARGUMENT");
}
