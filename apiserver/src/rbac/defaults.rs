//! The roles and bindings that every cluster has, from `defaults.txt`.

use serde_json::{Value, json};

use super::GROUP;

/// See there for its form.
const TEXT: &str = include_str!("defaults.txt");
/// All controllers of the cluster run as this user.
const CONTROLLERS: &str = "system:kube-controller-manager";
const CONTROLLER_ROLES: &str = "system:controller:";
const AGGREGATE: &str = "rbac.authorization.k8s.io/aggregate-to-";

/// An object and the collection that it belongs to.
pub(crate) type Wanted = (String, Value);

/// All of them, roles before their bindings.
pub(crate) fn wanted() -> Vec<Wanted> {
    let mut all = Vec::new();
    let mut bindings = Vec::new();
    for block in blocks() {
        let (role, binding) = block.objects();
        all.push(role);
        bindings.extend(binding);
    }
    all.extend(bindings);
    all
}

/// A role with its lines.
struct Block<'t> {
    head: Vec<&'t str>,
    lines: Vec<Vec<&'t str>>,
}

fn blocks() -> Vec<Block<'static>> {
    let mut blocks: Vec<Block<'_>> = Vec::new();
    for line in TEXT.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
        let words = line.split_whitespace().collect();
        match blocks.last_mut() {
            Some(block) if line.starts_with(' ') => block.lines.push(words),
            _ => blocks.push(Block { head: words, lines: Vec::new() }),
        }
    }
    blocks
}

fn metadata(name: &str, namespace: &str, labels: &[String]) -> Value {
    let mut metadata = json!({
        "name": name,
        "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
        "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"},
    });
    for label in labels {
        metadata["labels"][label] = "true".into();
    }
    if !namespace.is_empty() {
        metadata["namespace"] = namespace.into();
    }
    metadata
}

fn collection(resource: &str, namespace: &str) -> String {
    if namespace.is_empty() {
        format!("/apis/{GROUP}/v1/{resource}")
    } else {
        format!("/apis/{GROUP}/v1/namespaces/{namespace}/{resource}")
    }
}

impl Block<'_> {
    fn objects(&self) -> (Wanted, Option<Wanted>) {
        let cluster = self.head[0] == "cluster";
        let (namespace, name) =
            self.head[1].split_once('/').filter(|_| !cluster).unwrap_or(("", self.head[1]));
        let labels: Vec<String> = self
            .head
            .iter()
            .filter_map(|word| word.strip_prefix('>'))
            .map(|to| format!("{AGGREGATE}{to}"))
            .collect();
        let (kind, resource) = if cluster { ("ClusterRole", "clusterroles") } else { ("Role", "roles") };
        let mut role = json!({
            "apiVersion": format!("{GROUP}/v1"), "kind": kind, "metadata": metadata(name, namespace, &labels),
        });
        let mut binding_name = name;
        let mut subjects: Option<Vec<Value>> = None;
        let mut rules = Vec::new();
        for line in &self.lines {
            match line[0] {
                "to" => subjects = Some(line[1..].iter().map(|word| subject(word)).collect()),
                "as" => binding_name = line[1],
                _ => rules.push(rule(line)),
            }
        }
        match self.head.iter().find_map(|word| word.strip_prefix('<')) {
            Some(of) => {
                let label = format!("{AGGREGATE}{of}");
                role["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {label: "true"}}]});
            }
            None => role["rules"] = rules.into(),
        }
        if let Some(account) = name.strip_prefix(CONTROLLER_ROLES).filter(|_| cluster) {
            let account = format!("account:kube-system/{account}");
            subjects = Some(vec![subject(&account), subject(&format!("user:{CONTROLLERS}"))]);
        }
        let binding = subjects.map(|subjects| {
            let (kind_of, resource) = if cluster {
                ("ClusterRoleBinding", "clusterrolebindings")
            } else {
                ("RoleBinding", "rolebindings")
            };
            let object = json!({
                "apiVersion": format!("{GROUP}/v1"), "kind": kind_of,
                "metadata": metadata(binding_name, namespace, &[]),
                "roleRef": {"apiGroup": GROUP, "kind": kind, "name": name}, "subjects": subjects,
            });
            (collection(resource, namespace), object)
        });
        ((collection(resource, namespace), role), binding)
    }
}

fn list(words: &str) -> Vec<&str> {
    words
        .split(',')
        .flat_map(|word| -> &[&str] {
            match word {
                "read" => &["get", "list", "watch"],
                "write" => &["create", "delete", "deletecollection", "patch", "update"],
                "events" => &["create", "patch", "update"],
                _ => &[],
            }
        })
        .copied()
        .chain(words.split(',').filter(|word| !matches!(*word, "read" | "write")))
        .collect()
}

fn rule(line: &[&str]) -> Value {
    let verbs: Vec<&str> = list(line[0]).into_iter().filter(|verb| *verb != "events").collect();
    if line[1] == "url" {
        let paths: Vec<&str> = line[2].split(',').collect();
        return json!({"nonResourceURLs": paths, "verbs": verbs});
    }
    let groups: Vec<&str> =
        line[1].split(',').map(|group| if group == "core" { "" } else { group }).collect();
    let resources: Vec<&str> = line[2].split(',').collect();
    let mut rule = json!({"apiGroups": groups, "resources": resources, "verbs": verbs});
    if let Some(names) = line.get(3) {
        let names: Vec<&str> = names.split(',').collect();
        rule["resourceNames"] = names.into();
    }
    rule
}

fn subject(word: &str) -> Value {
    match word.split_once(':') {
        Some(("user", name)) => json!({"apiGroup": GROUP, "kind": "User", "name": name}),
        Some(("group", name)) => json!({"apiGroup": GROUP, "kind": "Group", "name": name}),
        Some((_, account)) => {
            let (namespace, name) = account.split_once('/').unwrap_or(("", account));
            json!({"kind": "ServiceAccount", "namespace": namespace, "name": name})
        }
        None => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_well_formed() {
        let all = wanted();
        let find = |kind: &str, name: &str| {
            let found =
                all.iter().find(|(_, object)| object["kind"] == kind && object["metadata"]["name"] == name);
            found.map(|(_, object)| object.clone()).unwrap_or_else(|| panic!("{kind} {name}"))
        };
        assert_eq!(
            find("ClusterRole", "cluster-admin")["rules"][1],
            json!({"nonResourceURLs": ["*"], "verbs": ["*"]})
        );
        assert_eq!(find("ClusterRole", "edit")["metadata"]["labels"][format!("{AGGREGATE}admin")], "true");
        let selector =
            &find("ClusterRole", "edit")["aggregationRule"]["clusterRoleSelectors"][0]["matchLabels"];
        assert_eq!(*selector, json!({format!("{AGGREGATE}edit"): "true"}));
        assert_eq!(find("ClusterRoleBinding", "system:node")["subjects"], json!([]));
        let controller = find("ClusterRoleBinding", "system:controller:job-controller");
        assert_eq!(controller["subjects"].as_array().map(Vec::len), Some(2));
        let events = &find("ClusterRole", "system:controller:job-controller")["rules"][4];
        assert_eq!(events["verbs"], json!(["create", "patch", "update"]));
        for (_, object) in all.iter().filter(|(_, object)| object["kind"] == "ClusterRole") {
            for rule in object["rules"].as_array().into_iter().flatten() {
                let verbs = rule["verbs"].as_array().unwrap();
                assert!(!verbs.is_empty() && verbs.iter().all(|verb| verb != "read"), "{object}");
            }
        }
    }
}
