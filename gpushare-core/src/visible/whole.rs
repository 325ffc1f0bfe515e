//! What holds of any string on any node.

use std::collections::BTreeSet;

use super::*;

/// Resolves it, and says whether the answer is of one piece.
pub(crate) fn expect_of_one_piece(snapshot: &Snapshot, string: Option<&str>) {
    let resolution = resolve(snapshot, string);
    assert_eq!(&resolution, &resolve(snapshot, string));
    let shown = resolution.to_string();
    assert!(!shown.contains(|c: char| c != '\n' && c.is_control()), "{shown:?}");

    // Devices, where there are any, each once and numbered.
    assert_eq!(resolution.devices.is_empty(), resolution.outcome != VisibleOutcome::Devices);
    let named: BTreeSet<_> = resolution.devices.iter().map(|d| d.uuid.as_str()).collect();
    assert_eq!(named.len(), resolution.devices.len());
    for (ordinal, device) in (0..).zip(&resolution.devices) {
        assert_eq!(device.ordinal, ordinal);
        let gpu = snapshot.gpus.iter().find(|gpu| gpu.index == device.index).expect("a GPU");
        let on = gpu.mig.as_ref().is_some_and(|mig| mig.enabled);
        // No process is said to get the whole of a GPU with MIG on.
        assert_eq!(on, device.kind == VisibleKind::MigDevice);
    }
    let mig = resolution.devices.iter().any(|d| d.kind == VisibleKind::MigDevice);
    assert!(!mig || resolution.devices.len() == 1);

    // The entries are the string's, and those that count are the devices.
    if let Some(string) = string.filter(|string| !string.is_empty()) {
        let texts: Vec<_> = resolution.entries.iter().map(|e| e.text.as_str()).collect();
        assert_eq!(texts.join(","), string);
        let counted: Vec<_> = resolution.entries.iter().filter(|e| e.ordinal.is_some()).collect();
        assert_eq!(counted.len(), resolution.devices.len());
        for (entry, device) in counted.iter().zip(&resolution.devices) {
            assert_eq!(entry.uuid.as_deref(), Some(device.uuid.as_str()));
            assert_eq!(entry.ordinal, Some(device.ordinal));
        }
    }
    for entry in &resolution.entries {
        assert_eq!(entry.uuid.is_none(), entry.names == Named::Nothing);
        assert_eq!(
            entry.reason.is_none(),
            entry.ordinal.is_some() || entry.standing == Standing::Counts
        );
    }
    assert_eq!(resolution.certain, resolution.flags.is_empty());

    // The document says the same again.
    let document = serde_json::to_string(&resolution).expect("it is JSON");
    assert_eq!(serde_json::from_str::<Resolution>(&document).ok(), Some(resolution));
}
