//! Command lines of `docker run`, one for each share.

use super::Options;
use super::docker;
use super::tenants::{Client, Tenant, User, of_one_device, tenants};
use crate::error::Result;
use crate::snapshot::Snapshot;
use crate::terminal::shell_word;

/// The text, and what it cannot say.
pub(super) fn export(snapshot: &Snapshot, options: &Options) -> Result<(String, Vec<String>)> {
    let image = docker::image(options)?;
    let (tenants, mut cannot_say) = tenants(snapshot);
    cannot_say.extend(docker::cannot_say(&tenants));
    let mut text = docker::head(snapshot, &tenants, options.cdi);
    for tenants in of_one_device(&tenants) {
        text.push_str(&docker::terms(tenants));
        for tenant in tenants {
            text.push_str(&format!("{}\n", words(tenant, options.cdi, image).join(" ")));
        }
    }
    text.push_str(&docker::lease(&tenants));
    Ok((text, cannot_say))
}

/// The words of one command, as a shell takes them.
fn words(tenant: &Tenant<'_>, cdi: bool, image: &str) -> Vec<String> {
    let uuid = tenant.share.device();
    let mut words: Vec<String> = ["docker", "run", "--rm"].map(str::to_owned).into();
    if cdi {
        words.extend(["--device".to_owned(), format!("{}={uuid}", docker::CDI)]);
    } else {
        // Docker reads the value as CSV: the quotes keep it one field.
        words.extend(["--gpus".to_owned(), format!("'\"device={uuid}\"'")]);
    }
    if let Some(client) = &tenant.client {
        words.extend(client_words(client, uuid));
    }
    words.push(shell_word(image).into_owned());
    words
}

fn client_words(client: &Client<'_>, uuid: &str) -> Vec<String> {
    let mut words = Vec::new();
    if client.shared_memory {
        words.push("--ipc=host".to_owned());
    }
    let nobody = docker::NO_GROUP;
    words.push("--user".to_owned());
    match client.user {
        User::Number(uid) => words.push(docker::user(uid)),
        User::Name(name) => words.push(format!("\"$(id -u {})\":{nobody}", shell_word(name))),
        User::Group(group) => {
            words.push(format!("\"$(id -u)\":{nobody}"));
            words.push("--group-add".to_owned());
            words.push(match group.parse::<u32>() {
                Ok(gid) => gid.to_string(),
                Err(_) => format!("\"$(getent group {} | cut -d: -f3)\"", shell_word(group)),
            });
        }
        User::Any => words.push(format!("\"$(id -u)\":{nobody}")),
    }
    // Not -v, which makes a directory where there is none: CUDA would then run past the daemon.
    let fields = ["type=bind".to_owned()]
        .into_iter()
        .chain(["source", "target"].map(|name| format!("{name}={}", client.directory)))
        // To connect writes nothing there.
        .chain(["readonly".to_owned()]);
    let fields: Vec<_> = fields.map(|field| csv(&field)).collect();
    words.push("--mount".to_owned());
    words.push(shell_word(&fields.join(",")).into_owned());
    for (name, value) in docker::variables(client, uuid) {
        words.push("-e".to_owned());
        words.push(shell_word(&format!("{name}={value}")).into_owned());
    }
    words
}

/// A field of a line of CSV, as Docker reads it.
fn csv(field: &str) -> String {
    if field.contains(['"', ',']) || field.starts_with(' ') {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}
