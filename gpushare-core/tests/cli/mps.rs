//! Splits and attachments, held against their schemas.

use gpushare_core::Node;
use gpushare_core::backend::sim::PRODUCTS;
use gpushare_core::hazard::{MpsTarget, Split, split};
use gpushare_core::id::Pid;
use gpushare_core::mode::{MpsHealth, Verdict};
use gpushare_core::mps::{
    Attachment, ContextFacts, DaemonFacts, Declared, DomainFacts, ProcessFacts, ServerFacts,
    ServerLimits, attachment,
};
use gpushare_core::units::{Bytes, ThreadPercentage};
use serde_json::Value;

use crate::schema::Schema;

#[test]
fn splits_of_every_card_are_as_their_schema_says() {
    let (mut cut, mut plain) = (0, 0);
    for product in PRODUCTS {
        let node = Node::builder().sim(format!("1x{}", product.name)).open().unwrap();
        let snapshot = node.snapshot().unwrap();
        let gpu = &snapshot.gpus[0];
        let whole = MpsTarget::of_gpu(gpu);
        let half = gpu.sm_count.map(|count| count / 2);
        for target in [MpsTarget::of_mig_device(gpu, half, None), whole] {
            for parts in 0..=61 {
                let Ok(split) = split(&target, &snapshot.driver, parts) else { continue };
                let split = split.simulated(true);
                let document = serde_json::to_value(&split).unwrap();
                Schema::of(&document).expect(&document);
                plain += u32::from(split.plain.is_some());
                cut += u32::from(parts > 1);
                assert_eq!(serde_json::from_value::<Split>(document).unwrap(), split);
            }
        }
    }
    assert!(cut > 50 && plain > 3, "{cut} {plain}");
}

fn facts() -> (ProcessFacts, DomainFacts) {
    let domain = "GPU-1".parse().unwrap();
    let gpu = "GPU-1".parse().unwrap();
    let server = ServerFacts {
        pid: Pid::new(2),
        clients: Some(vec![Pid::new(1)]),
        limits: Some(ServerLimits::new(
            ThreadPercentage::new(12.5).unwrap(),
            Some(Bytes::from_mebibytes(1024)),
        )),
    };
    let daemon = DaemonFacts {
        health: MpsHealth::Answers,
        directory: "/run/gpushare/one".into(),
        changed: Some(1),
        anyone_may_set: false,
        servers: Some(vec![server]),
    };
    let memory = Some(Bytes::from_mebibytes(512));
    let process = ProcessFacts {
        pid: Pid::new(1),
        start_time: Some(2),
        command: "train".to_owned(),
        uid: Some(1000),
        same_pid_namespace: true,
        environment: Some(Declared {
            pipe_directory: Some("/run/gpushare/one".to_owned()),
            thread_percentage: Some("abc".to_owned()),
            pinned_memory_limit: Some("0=1G".to_owned()),
            visible_devices: Some(String::new()),
            priority: Some("1".to_owned()),
        }),
        contexts: vec![ContextFacts { device: "GPU-1".parse().unwrap(), mps_client: true, memory }],
        processes_hidden: false,
    };
    (process, DomainFacts { domain, gpu, sm_count: Some(132), memory, daemon: Some(daemon) })
}

fn check(process: &ProcessFacts, domain: &DomainFacts) -> (Verdict, Value) {
    let found = attachment(true, process, std::slice::from_ref(domain));
    let document = serde_json::to_value(&found).unwrap();
    Schema::of(&document).expect(&document);
    assert_eq!(serde_json::from_value::<Attachment>(document.clone()).unwrap(), found);
    (found.verdict, document)
}

#[test]
fn attachments_are_as_their_schema_says() {
    let (process, domain) = facts();
    let (verdict, document) = check(&process, &domain);
    assert_eq!(verdict, Verdict::Attached);
    let empty = |document: &Value| document.to_string().matches("null").count();
    assert_eq!(empty(&document), 1, "all but the reason is known: {document}");
    assert_eq!(document["at_most"]["thread_percentage"], 12.5);

    let mut bare = process.clone();
    (bare.start_time, bare.uid, bare.environment) = (None, None, None);
    bare.contexts.clear();
    assert_eq!(check(&bare, &domain).0, Verdict::Unknown);
    bare.processes_hidden = true;
    assert_eq!(check(&bare, &domain).0, Verdict::Attached);
    let mut frozen = domain.clone();
    frozen.daemon.as_mut().unwrap().health = MpsHealth::Frozen;
    assert_eq!(check(&process, &frozen).0, Verdict::Unknown);
    let mut mig = domain.clone();
    mig.domain = "MIG-1/2".parse().unwrap();
    assert_eq!(check(&process, &mig).0, Verdict::Attached);
    let (mut other, none) = (process, DomainFacts { daemon: None, ..domain });
    assert_eq!(check(&other, &none).0, Verdict::NotAttached);
    other.environment = Some(Declared::default());
    assert_eq!(check(&other, &none).0, Verdict::NotAttached);
}
