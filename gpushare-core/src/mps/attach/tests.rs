//! Every combination of what can be seen.

use proptest::prelude::*;

use super::*;
use crate::mps::ServerLimits;

const PID: Pid = Pid::new(4242);
const SERVER: Pid = Pid::new(100);
const CHANGED: u64 = 1000;

fn gpu(number: u32) -> MpsDomain {
    format!("GPU-{number}").parse().unwrap()
}

fn percent(percent: f64) -> ThreadPercentage {
    ThreadPercentage::new(percent).unwrap()
}

/// What the one server of a daemon says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Says {
    Nothing,
    NoClients,
    Others,
    ItIsMe,
    Listed,
}

const SAYS: [Says; 5] = [Says::Nothing, Says::NoClients, Says::Others, Says::ItIsMe, Says::Listed];

fn daemon(number: u32, health: MpsHealth, says: Says) -> DaemonFacts {
    let server = ServerFacts {
        pid: if says == Says::ItIsMe { PID } else { SERVER },
        clients: match says {
            Says::NoClients => None,
            Says::Listed => Some(vec![Pid::new(7), PID]),
            _ => Some(vec![Pid::new(7)]),
        },
        limits: Some(ServerLimits {
            thread_percentage: percent(25.0),
            pinned_memory_limit: Some(Bytes::from_mebibytes(4096)),
        }),
    };
    DaemonFacts {
        health,
        directory: format!("/run/gpushare/{number}").into(),
        changed: Some(CHANGED),
        anyone_may_set: false,
        servers: (says != Says::Nothing).then(|| vec![server]),
    }
}

fn domain(number: u32, daemon: Option<DaemonFacts>) -> DomainFacts {
    let domain = gpu(number);
    DomainFacts {
        gpu: domain.as_str().parse().unwrap(),
        domain,
        sm_count: Some(132),
        memory: Some(Bytes::from_mebibytes(143_771)),
        daemon,
    }
}

fn context(number: u32, mps_client: bool) -> ContextFacts {
    ContextFacts { device: gpu(number), mps_client, memory: Some(Bytes::from_mebibytes(514)) }
}

fn process(contexts: Vec<ContextFacts>) -> ProcessFacts {
    ProcessFacts {
        pid: PID,
        start_time: Some(CHANGED + 1),
        command: "python train.py".to_owned(),
        uid: Some(1000),
        same_pid_namespace: true,
        environment: Some(Declared::default()),
        contexts,
        processes_hidden: false,
    }
}

fn attached() -> (ProcessFacts, Vec<DomainFacts>) {
    let domains = vec![domain(0, Some(daemon(0, MpsHealth::Answers, Says::Listed)))];
    (process(vec![context(0, true)]), domains)
}

/// Every daemon that a GPU can have, and none.
fn daemons(number: u32) -> Vec<Option<DaemonFacts>> {
    let healths = MpsHealth::ALL.iter();
    let all = healths.flat_map(|&health| SAYS.map(|says| Some(daemon(number, health, says))));
    std::iter::once(None).chain(all).collect()
}

fn contexts() -> Vec<Vec<ContextFacts>> {
    let mut all = vec![Vec::new()];
    for mps_client in [false, true] {
        all.push(vec![context(0, mps_client)]);
        all.push(vec![context(1, mps_client)]);
        all.push(vec![context(0, mps_client), context(1, false)]);
        // A GPU of which nothing else was seen.
        all.push(vec![context(9, mps_client)]);
    }
    all
}

/// The verdict, written once more and differently: whatever can be a doubt is one.
fn expected(process: &ProcessFacts, domains: &[DomainFacts]) -> Verdict {
    let on = |number: &MpsDomain| process.contexts.iter().any(|c| &c.device == number);
    let as_client =
        |number: &MpsDomain| process.contexts.iter().any(|c| &c.device == number && c.mps_client);
    let mut doubt = !process.same_pid_namespace || process.processes_hidden;
    let mut listed = None;
    for domain in domains {
        let Some(daemon) = &domain.daemon else { continue };
        let servers = daemon.servers.as_ref();
        let silent = servers.is_none_or(|all| all.iter().any(|one| one.clients.is_none()));
        let here = on(&domain.domain) || process.contexts.is_empty();
        match (daemon.health, silent) {
            (MpsHealth::Gone, _) => {}
            (MpsHealth::Frozen | MpsHealth::Unknown, _) => doubt |= here,
            (_, true) => doubt |= here,
            (_, false) => {
                let lists = servers
                    .unwrap()
                    .iter()
                    .any(|one| one.clients.as_ref().unwrap().contains(&process.pid));
                // The first daemon that lists it is the one that is judged.
                if lists && listed.is_none() {
                    let there = process.contexts.iter().filter(|c| c.device == domain.domain);
                    let there: Vec<bool> = there.map(|context| context.mps_client).collect();
                    let shown = !there.is_empty() || process.processes_hidden;
                    listed = Some(shown && there.iter().all(|client| *client));
                }
                doubt |= as_client(&domain.domain);
            }
        }
    }
    match (listed.filter(|_| process.same_pid_namespace), doubt) {
        (Some(true), _) => Verdict::Attached,
        (Some(false), _) | (None, true) => Verdict::Unknown,
        (None, false) => Verdict::NotAttached,
    }
}

fn expect_consistent(process: &ProcessFacts, domains: &[DomainFacts], found: &Attachment) {
    let is_attached = found.verdict == Verdict::Attached;
    assert!(!found.reasons.is_empty(), "{process:?} {domains:?}");
    assert_eq!(found.domain.is_some(), is_attached);
    assert_eq!(found.server.is_some(), is_attached);
    assert!(is_attached || found.memory.is_none());
    let at_most = &found.at_most;
    let all = at_most.sm_count.is_some() && at_most.memory.is_some();
    assert_eq!(all, at_most.reason.is_none(), "what is unknown says why");
    let enforced = at_most.sm_count.is_some() || at_most.memory.is_some();
    assert!(is_attached || !enforced && at_most.thread_percentage.is_none());
    assert_eq!(found.declared, process.environment);
    let text = found.to_string();
    assert!(found.reasons.iter().all(|reason| text.contains(reason.as_str())), "{text}");
    let document = serde_json::to_string(found).unwrap();
    assert_eq!(&serde_json::from_str::<Attachment>(&document).unwrap(), found);
}

#[test]
fn every_combination_has_its_verdict() {
    let mut seen = std::collections::BTreeMap::new();
    for first in daemons(0) {
        for second in daemons(1) {
            let domains = [domain(0, first.clone()), domain(1, second)];
            for contexts in contexts() {
                for (same_pid_namespace, processes_hidden) in
                    [(true, false), (true, true), (false, false), (false, true)]
                {
                    let process = ProcessFacts {
                        same_pid_namespace,
                        processes_hidden,
                        ..process(contexts.clone())
                    };
                    let found = attachment(false, &process, &domains);
                    let expected = expected(&process, &domains);
                    assert_eq!(found.verdict, expected, "{process:?} {domains:?} {found}");
                    expect_consistent(&process, &domains, &found);
                    *seen.entry(found.verdict).or_insert(0) += 1;
                }
            }
        }
    }
    assert_eq!(seen.len(), 3, "{seen:?}");
    assert!(seen.values().all(|&count| count > 300), "{seen:?}");
}

#[test]
fn what_is_enforced_is_known_only_of_clients_that_came_after_the_last_change() {
    for started in [None, Some(0), Some(CHANGED - 1), Some(CHANGED), Some(CHANGED + 1)] {
        for changed in [None, Some(CHANGED)] {
            for limited in [true, false] {
                let (mut process, mut domains) = attached();
                process.start_time = started;
                let daemon = domains[0].daemon.as_mut().unwrap();
                daemon.changed = changed;
                if !limited {
                    daemon.servers.as_mut().unwrap()[0].limits = None;
                }
                let found = attachment(false, &process, &domains);
                assert_eq!(found.verdict, Verdict::Attached);
                expect_consistent(&process, &domains, &found);
                let known = limited && started == Some(CHANGED + 1) && changed.is_some();
                let at_most = found.at_most;
                assert_eq!(at_most.sm_count, known.then_some(32), "{started:?} {changed:?}");
                assert_eq!(at_most.thread_percentage, known.then(|| percent(25.0)));
                assert_eq!(at_most.memory, known.then(|| Bytes::from_mebibytes(4096)));
            }
        }
    }
}

#[test]
fn bounds_are_never_too_low() {
    let bounds = |limits: ServerLimits, sm_count, memory| {
        let (process, mut domains) = attached();
        domains[0].sm_count = sm_count;
        domains[0].memory = memory;
        domains[0].daemon.as_mut().unwrap().servers.as_mut().unwrap()[0].limits = Some(limits);
        let found = attachment(false, &process, &domains);
        expect_consistent(&process, &domains, &found);
        (found.at_most.sm_count, found.at_most.memory)
    };
    let limits = |percentage, pinned_memory_limit| ServerLimits {
        thread_percentage: percent(percentage),
        pinned_memory_limit,
    };
    let gib = |count: u64| Some(Bytes::new(count << 30));
    // Between whole percentages the driver's rounding was not measured.
    assert_eq!(bounds(limits(13.5, None), Some(132), gib(80)), (Some(18), gib(80)));
    assert_eq!(bounds(limits(100.0, gib(4)), Some(132), gib(80)), (Some(132), gib(4)));
    // A limit beyond the device is none.
    assert_eq!(bounds(limits(100.0, gib(90)), Some(132), gib(80)), (Some(132), gib(80)));
    assert_eq!(bounds(limits(50.0, gib(4)), None, None), (None, gib(4)));
    assert_eq!(bounds(limits(50.0, None), None, None), (None, None));
}

#[test]
fn the_reasons_say_what_is_wrong() {
    let says = |process: &ProcessFacts, domains: &[DomainFacts], parts: &[&str]| {
        let text = attachment(false, process, domains).to_string();
        for part in parts {
            assert!(text.contains(part), "{part}: {text}");
        }
    };
    let answers = [domain(0, Some(daemon(0, MpsHealth::Answers, Says::Others)))];
    let beside = process(vec![context(0, false)]);
    says(
        &beside,
        &answers,
        &["runs beside the daemon", "GPU-0", "no CUDA_MPS_PIPE_DIRECTORY", "/run/gpushare/0"],
    );
    let mut wrong = beside.clone();
    wrong.environment.as_mut().unwrap().pipe_directory = Some("/run/other".to_owned());
    says(&wrong, &answers, &["its CUDA_MPS_PIPE_DIRECTORY is /run/other, and", "/run/gpushare/0"]);
    says(&wrong, &answers, &["declared, not enforced: CUDA_MPS_PIPE_DIRECTORY=/run/other"]);
    wrong.environment.as_mut().unwrap().pipe_directory = Some("/run/gpushare/0/".to_owned());
    assert!(!attachment(false, &wrong, &answers).reasons.iter().any(|r| r.contains("PIPE")));
    wrong.environment = None;
    says(&wrong, &answers, &["environment cannot be read"]);
    says(&process(Vec::new()), &answers, &["no context on any GPU"]);
    says(&process(vec![context(5, false)]), &answers, &["GPU-5, where no MPS daemon of ours"]);
    says(&process(vec![context(5, true)]), &answers, &["GPU-5 that is not ours"]);
    says(&beside, &[], &["no MPS daemon of ours runs on this node"]);
    for (health, part) in [
        (MpsHealth::Frozen, "is frozen, so nobody can tell"),
        (MpsHealth::Unknown, "gpushare does not know"),
        (MpsHealth::Gone, "of ours is gone"),
    ] {
        says(&beside, &[domain(0, Some(daemon(0, health, Says::Others)))], &[part]);
    }
    let me = [domain(0, Some(daemon(0, MpsHealth::Answers, Says::ItIsMe)))];
    says(&beside, &me, &["is the MPS server"]);
    let (mut process, domains) = attached();
    process.command = "evil\u{1b}[2J".to_owned();
    assert!(!attachment(true, &process, &domains).to_string().contains('\u{1b}'));
    assert!(attachment(true, &process, &domains).to_string().starts_with("SIMULATED\n"));
}

fn some_daemon() -> impl Strategy<Value = Option<DaemonFacts>> {
    let clients = || prop::option::weighted(0.8, prop::collection::vec(1..6u32, 0..4));
    let servers = prop::collection::vec((10..13u32, clients()), 0..3);
    let servers = prop::option::weighted(0.8, servers);
    let facts = (0..MpsHealth::ALL.len(), prop::option::of(0..4u64), servers);
    let daemon = facts.prop_map(|(health, changed, servers)| DaemonFacts {
        health: MpsHealth::ALL[health],
        directory: "/run/gpushare/x".into(),
        changed,
        anyone_may_set: false,
        servers: servers.map(|all| {
            let all = all.into_iter().map(|(pid, clients)| ServerFacts {
                pid: Pid::new(pid),
                clients: clients.map(|all| all.into_iter().map(Pid::new).collect()),
                limits: None,
            });
            all.collect()
        }),
    });
    prop::option::weighted(0.8, daemon)
}

proptest! {
    #[test]
    fn nothing_but_a_listing_by_our_own_server_attaches(
        daemons in prop::collection::vec(some_daemon(), 0..4),
        seen in prop::collection::vec((0..5u32, any::<bool>()), 0..4),
        pid in 1..6u32,
        same_pid_namespace in prop::bool::weighted(0.8),
        processes_hidden in any::<bool>(),
        directory in prop::option::of(Just("/run/gpushare/x".to_owned())),
    ) {
        let mut process = process(seen.into_iter().map(|(n, client)| context(n, client)).collect());
        process.pid = Pid::new(pid);
        process.same_pid_namespace = same_pid_namespace;
        process.processes_hidden = processes_hidden;
        process.environment.as_mut().unwrap().pipe_directory = directory;
        let domains: Vec<_> =
            daemons.into_iter().zip(0..).map(|(daemon, number)| domain(number, daemon)).collect();
        let found = attachment(false, &process, &domains);
        let listed = domains.iter().filter_map(|domain| domain.daemon.as_ref()).any(|daemon| {
            daemon.health == MpsHealth::Answers
                && daemon.servers.iter().flatten().any(|server| {
                    server.clients.iter().flatten().any(|&client| client == process.pid)
                })
        });
        let is_attached = found.verdict == Verdict::Attached;
        prop_assert!(!is_attached || (listed && same_pid_namespace));
        // And the driver shows no context of it there that is none of a client's.
        let beside = |domain: &DomainFacts| {
            let contexts = process.contexts.iter();
            contexts.clone().any(|c| c.device == domain.domain && !c.mps_client)
        };
        let its = domains.iter().find(|domain| Some(&domain.domain) == found.domain.as_ref());
        prop_assert!(!its.is_some_and(beside));
        expect_consistent(&process, &domains, &found);
    }
}
