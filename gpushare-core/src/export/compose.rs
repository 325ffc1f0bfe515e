//! A Compose file, one service for each share.

use super::Options;
use super::docker;
use super::tenants::{Client, Tenant, User, of_one_device, tenants};
use crate::error::Result;
use crate::snapshot::Snapshot;
use crate::spec::tree::{Node, yaml_text};

/// What Compose asks the caller's environment for, where it is not known who will be the client.
const UID: &str = "CLIENT_UID";
const GID: &str = "CLIENT_GID";

/// The text, and what it cannot say.
pub(super) fn export(snapshot: &Snapshot, options: &Options) -> Result<(String, Vec<String>)> {
    let image = docker::image(options)?;
    let (tenants, mut cannot_say) = tenants(snapshot);
    cannot_say.extend(docker::cannot_say(&tenants));
    let mut text = docker::head(snapshot, &tenants, options.cdi);
    of_one_device(&tenants).for_each(|tenants| text.push_str(&docker::terms(tenants)));
    let services: Vec<_> =
        tenants.iter().map(|tenant| (tenant.name(), service(tenant, options.cdi, image))).collect();
    text.push_str(&docker::lease(&tenants));
    let services = services.iter().map(|(name, service)| (name.as_str(), service.clone()));
    text.push_str(&yaml_text(&Node::map([("services", Node::map(services))])));
    Ok((text, cannot_say))
}

fn service(tenant: &Tenant<'_>, cdi: bool, image: &str) -> Node {
    let uuid = tenant.share.device();
    let mut fields = vec![("image", literal(image))];
    if cdi {
        fields.push(("devices", Node::list([Node::text(format!("{}={uuid}", docker::CDI))])));
    } else {
        let device = Node::map([
            ("driver", Node::text("nvidia")),
            ("device_ids", Node::list([Node::text(uuid)])),
            ("capabilities", Node::list([Node::text("gpu")])),
        ]);
        let devices = Node::map([("devices", Node::list([device]))]);
        let reservations = Node::map([("reservations", devices)]);
        fields.push(("deploy", Node::map([("resources", reservations)])));
    }
    if let Some(client) = &tenant.client {
        fields.extend(client_fields(client, uuid));
    }
    Node::map(fields)
}

fn client_fields(client: &Client<'_>, uuid: &str) -> Vec<(&'static str, Node)> {
    let mut fields = Vec::new();
    if client.shared_memory {
        fields.push(("ipc", Node::text("host")));
    }
    let nobody = docker::NO_GROUP;
    let (user, group) = match client.user {
        User::Number(uid) => (docker::user(uid), None),
        User::Name(_) => (format!("{}:{nobody}", asked(UID, "the number of its user")), None),
        User::Group(group) => (
            format!("{}:{nobody}", asked(UID, "the number of a user of its group")),
            Some(match group.parse::<u32>() {
                Ok(gid) => gid.to_string(),
                Err(_) => asked(GID, "the number of its group"),
            }),
        ),
        User::Any => (format!("{}:{nobody}", asked(UID, "the number of a user")), None),
    };
    fields.push(("user", Node::text(user)));
    fields.extend(group.map(|group| ("group_add", Node::list([Node::text(group)]))));
    let variables = docker::variables(client, uuid);
    let variables = variables.iter().map(|(name, value)| (*name, literal(value)));
    fields.push(("environment", Node::map(variables)));
    let mount = Node::map([
        ("type", Node::text("bind")),
        ("source", literal(client.directory)),
        ("target", literal(client.directory)),
        ("read_only", Node::boolean(true)),
        // A directory that is made where there is none has no daemon: CUDA would run past it.
        ("bind", Node::map([("create_host_path", Node::boolean(false))])),
    ]);
    fields.push(("volumes", Node::list([mount])));
    fields
}

/// A text in which Compose replaces nothing.
fn literal(text: &str) -> Node {
    Node::text(text.replace('$', "$$"))
}

/// What Compose takes from the caller's environment, or says that it lacks.
fn asked(name: &str, what: &str) -> String {
    format!("${{{name}:?set {name} to {what}}}")
}
