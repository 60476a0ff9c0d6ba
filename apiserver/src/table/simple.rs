//! Kinds whose row is little more than a name and an age.

use super::column::{AGE, NAME, boolean, integer, string};
use super::human::{age, name};
use super::{Printer, Row, print};
use manifests::k8s_openapi::api::coordination::v1::Lease;
use manifests::k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret, ServiceAccount};
use manifests::k8s_openapi::api::scheduling::v1::PriorityClass;
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

pub(super) const NAMESPACE: Printer = Printer {
    columns: &[NAME, string("Status", "Whether the namespace is in use or on its way out."), AGE],
    row: |object, now| {
        print::<Namespace>(object, |namespace| {
            let phase =
                namespace.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
            Row::from(vec![name(&namespace.metadata), phase.into(), age(&namespace.metadata, now)])
        })
    },
};

pub(super) const CONFIG_MAP: Printer = Printer {
    columns: &[NAME, string("Data", "How many keys there are."), AGE],
    row: |object, now| {
        print::<ConfigMap>(object, |map| {
            let keys = map.data.as_ref().map_or(0, |data| data.len())
                + map.binary_data.as_ref().map_or(0, |data| data.len());
            Row::from(vec![name(&map.metadata), keys.into(), age(&map.metadata, now)])
        })
    },
};

pub(super) const SECRET: Printer = Printer {
    columns: &[
        NAME,
        string("Type", "What the secret is for."),
        string("Data", "How many keys there are."),
        AGE,
    ],
    row: |object, now| {
        print::<Secret>(object, |secret| {
            Row::from(vec![
                name(&secret.metadata),
                secret.type_.as_deref().unwrap_or_default().into(),
                secret.data.as_ref().map_or(0, |data| data.len()).into(),
                age(&secret.metadata, now),
            ])
        })
    },
};

pub(super) const SERVICE_ACCOUNT: Printer = Printer {
    columns: &[NAME, string("Secrets", "How many secrets belong to the account."), AGE],
    row: |object, now| {
        print::<ServiceAccount>(object, |account| {
            let secrets = account.secrets.as_ref().map_or(0, Vec::len);
            Row::from(vec![name(&account.metadata), secrets.into(), age(&account.metadata, now)])
        })
    },
};

pub(super) const LEASE: Printer = Printer {
    columns: &[NAME, string("Holder", "Who holds the lease."), AGE],
    row: |object, now| {
        print::<Lease>(object, |lease| {
            let holder =
                lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
            Row::from(vec![name(&lease.metadata), holder.into(), age(&lease.metadata, now)])
        })
    },
};

pub(super) const PRIORITY_CLASS: Printer = Printer {
    columns: &[
        NAME,
        integer("Value", "The priority of pods of this class."),
        boolean("Global-Default", "Whether pods that name no class are of this one."),
        AGE,
        string("PreemptionPolicy", "Whether pods of this class drive out others."),
    ],
    row: |object, now| {
        print::<PriorityClass>(object, |class| {
            Row::from(vec![
                name(&class.metadata),
                class.value.unwrap_or_default().into(),
                class.global_default.unwrap_or_default().into(),
                age(&class.metadata, now),
                class.preemption_policy.as_deref().unwrap_or("PreemptLowerPriority").into(),
            ])
        })
    },
};

/// For kinds without columns of their own.
pub(super) const DEFAULT: Printer = Printer {
    columns: &[NAME, AGE],
    row: |object, now| {
        #[derive(Deserialize)]
        struct Object {
            metadata: ObjectMeta,
        }
        print::<Object>(object, |object| Row::from(vec![name(&object.metadata), age(&object.metadata, now)]))
    },
};
