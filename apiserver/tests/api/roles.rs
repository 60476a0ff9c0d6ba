//! Roles and bindings, nodes, tokens, impersonation, and the questions about all of these.

use std::time::Duration;

use apiserver::{Body, Identity};
use http::{Method, Request};
use serde_json::{Value, json};

use crate::common::*;

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const AUTHORIZATION: &str = "/apis/authorization.k8s.io/v1";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const PODS: &str = "/api/v1/namespaces/default/pods";

impl Cluster {
    async fn ask_as(&self, identity: Identity, method: Method, path: &str, body: Value) -> Answer {
        self.ask_with(identity, method, path, body, &[]).await
    }

    async fn ask_with(
        &self,
        identity: Identity,
        method: Method,
        path: &str,
        body: Value,
        headers: &[(&str, &str)],
    ) -> Answer {
        let mut request =
            Request::builder().method(method).uri(path).header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        answer(self.server.handle(request.body(body).expect("a request"), identity).await).await
    }

    async fn get_as(&self, identity: Identity, path: &str) -> Answer {
        self.ask_as(identity, Method::GET, path, Value::Null).await
    }

    /// With a token instead of a certificate.
    async fn get_with_token(&self, token: &str, path: &str) -> Answer {
        let header = format!("Bearer {token}");
        self.ask_with(Identity::anonymous(), Method::GET, path, Value::Null, &[("authorization", &header)])
            .await
    }
}

fn jane() -> Identity {
    Identity::user("jane", ["devs"])
}

fn node(name: &str) -> Identity {
    Identity::user(format!("system:node:{name}"), ["system:nodes"])
}

fn role(name: &str, rules: Value) -> Value {
    json!({"metadata": {"name": name}, "rules": rules})
}

fn binding(name: &str, kind: &str, role: &str, subject: Value) -> Value {
    json!({"metadata": {"name": name}, "roleRef": {"kind": kind, "name": role}, "subjects": [subject]})
}

fn pod(name: &str, on: &str, account: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {
        "nodeName": on, "serviceAccountName": account, "containers": [{"name": "c", "image": "i"}],
        "volumes": [{"name": "v", "secret": {"secretName": "used"}}],
    }})
}

#[tokio::test]
async fn a_role_gives_what_it_says_where_it_is_bound() {
    let cluster = Cluster::start().await;
    cluster.get_as(jane(), PODS).await.refused(403, "Forbidden");
    let roles = format!("{RBAC}/namespaces/default/roles");
    let bindings = format!("{RBAC}/namespaces/default/rolebindings");
    let rules = json!([{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]}]);
    cluster.post(&roles, role("reader", rules)).await.expect(201);
    let made = cluster
        .post(&bindings, binding("readers", "Role", "reader", json!({"kind": "Group", "name": "devs"})))
        .await;
    let made = made.expect(201);
    assert_eq!(made["roleRef"]["apiGroup"], "rbac.authorization.k8s.io", "a default");
    cluster.get_as(jane(), PODS).await.expect(200);
    cluster.get_as(jane(), "/api/v1/pods").await.refused(403, "Forbidden");
    cluster.get_as(jane(), &format!("{PODS}?watch=1")).await.refused(403, "Forbidden");
    cluster.get_as(Identity::user("john", [""; 0]), PODS).await.refused(403, "Forbidden");
    // Everybody with credentials sees what there is.
    cluster.get_as(jane(), "/api/v1").await.expect(200);
    cluster.get_as(jane(), "/metrics").await.refused(403, "Forbidden");
    let mut other = made.clone();
    other["roleRef"]["name"] = "other".into();
    let message = cluster.put(&format!("{bindings}/readers"), other).await.refused(422, "Invalid");
    assert!(message.contains("cannot change roleRef"), "{message}");
    cluster.delete(&format!("{bindings}/readers")).await.expect(200);
    cluster.get(&bindings).await.expect(200);
    cluster.get_as(jane(), PODS).await.refused(403, "Forbidden");
}

#[tokio::test]
async fn the_roles_of_every_cluster() {
    let cluster = Cluster::start().await;
    let path = format!("{RBAC}/clusterroles/view");
    // Sums are made when their parts are there.
    let mut view = Value::Null;
    for _ in 0..200 {
        view = cluster.get(&path).await.expect(200);
        if view["rules"].as_array().is_some_and(|rules| rules.len() > 5) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(view["rules"].as_array().is_some_and(|rules| rules.len() > 5), "{view:#}");
    let bind = binding("viewers", "ClusterRole", "view", json!({"kind": "User", "name": "jane"}));
    cluster.post(&format!("{RBAC}/clusterrolebindings"), bind).await.expect(201);
    cluster.get_as(jane(), "/apis/apps/v1/deployments").await.expect(200);
    cluster.get_as(jane(), "/api/v1/secrets").await.refused(403, "Forbidden");
    let scheduler = || Identity::user("system:kube-scheduler", [""; 0]);
    cluster.get_as(scheduler(), "/api/v1/pods").await.expect(200);
    cluster.get_as(scheduler(), "/api/v1/secrets").await.refused(403, "Forbidden");
    // A second server over the same store finds them and changes nothing.
    let before = cluster.get(&format!("{RBAC}/clusterroles")).await.expect(200);
    let again = Cluster::over(cluster.store.clone()).await;
    let after = again.get(&format!("{RBAC}/clusterroles")).await.expect(200);
    assert_eq!(before["items"], after["items"]);
}

#[tokio::test]
async fn nobody_gives_away_what_they_do_not_have() {
    let cluster = Cluster::start().await;
    let rules = json!([
        {"verbs": ["*"], "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles", "rolebindings"]},
        {"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]},
    ]);
    cluster.post(&format!("{RBAC}/clusterroles"), role("chief", json!(rules))).await.expect(201);
    let path = format!("{RBAC}/namespaces/default/rolebindings");
    cluster
        .post(&path, binding("chief", "ClusterRole", "chief", json!({"kind": "User", "name": "jane"})))
        .await
        .expect(201);
    let roles = format!("{RBAC}/namespaces/default/roles");
    let own = role("own", json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]));
    // The star among the verbs includes `escalate` and `bind`, so the first try is with less.
    let rules = json!([
        {"verbs": ["create", "update"], "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles", "rolebindings"]},
        {"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]},
    ]);
    cluster.put(&format!("{RBAC}/clusterroles/chief"), role("chief", rules)).await.expect(200);
    // What was taken away is gone once the change is seen.
    cluster.get(&format!("{RBAC}/clusterroles/chief")).await.expect(200);
    cluster.ask_as(jane(), Method::POST, &roles, own.clone()).await.expect(201);
    let more = role("more", json!([{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]}]));
    let message = cluster.ask_as(jane(), Method::POST, &roles, more).await.refused(403, "Forbidden");
    assert_eq!(
        message,
        "roles.rbac.authorization.k8s.io \"more\" is forbidden: user \"jane\" (groups=[\"devs\" \"system:authenticated\"]) is \
         attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"list\"]}"
    );
    let grab = binding("grab", "ClusterRole", "cluster-admin", json!({"kind": "User", "name": "jane"}));
    cluster.ask_as(jane(), Method::POST, &path, grab).await.refused(403, "Forbidden");
    let give = binding("give", "Role", "own", json!({"kind": "User", "name": "john"}));
    cluster.ask_as(jane(), Method::POST, &path, give).await.expect(201);
}

#[tokio::test]
async fn questions() {
    let cluster = Cluster::start().await;
    let may = |identity: Identity, verb: &str, resource: &str| {
        let (cluster, spec) = (
            &cluster,
            json!({"spec": {"resourceAttributes": {"verb": verb, "resource": resource, "namespace": "default"}}}),
        );
        async move {
            let path = format!("{AUTHORIZATION}/selfsubjectaccessreviews");
            cluster.ask_as(identity, Method::POST, &path, spec).await.expect(201)["status"]["allowed"].clone()
        }
    };
    assert_eq!(may(Identity::admin(), "delete", "nodes").await, true);
    assert_eq!(may(jane(), "get", "pods").await, false);
    let review = json!({"spec": {"user": "system:kube-scheduler", "resourceAttributes": {"verb": "create", "resource": "pods", "subresource": "binding"}}});
    let path = format!("{AUTHORIZATION}/subjectaccessreviews");
    assert_eq!(cluster.post(&path, review.clone()).await.expect(201)["status"]["allowed"], true);
    cluster.ask_as(jane(), Method::POST, &path, review).await.refused(403, "Forbidden");
    let message = cluster.post(&path, json!({"spec": {"user": "x"}})).await.refused(422, "Invalid");
    assert!(
        message.contains("exactly one of nonResourceAttributes or resourceAttributes must be specified"),
        "{message}"
    );
    let path_review = json!({"spec": {"user": "x", "groups": ["system:authenticated"], "nonResourceAttributes": {"verb": "get", "path": "/api/v1"}}});
    assert_eq!(cluster.post(&path, path_review).await.expect(201)["status"]["allowed"], true);
    let local = json!({"spec": {"user": "x", "resourceAttributes": {"verb": "get", "resource": "pods", "namespace": "other"}}});
    cluster
        .post(&format!("{AUTHORIZATION}/namespaces/default/localsubjectaccessreviews"), local)
        .await
        .refused(422, "Invalid");
    let rules = cluster
        .ask_as(
            jane(),
            Method::POST,
            &format!("{AUTHORIZATION}/selfsubjectrulesreviews"),
            json!({"spec": {"namespace": "default"}}),
        )
        .await
        .expect(201);
    let all = rules["status"]["resourceRules"].as_array().unwrap();
    assert!(all.iter().any(|rule| rule["resources"] == json!(["selfsubjectreviews"])), "{rules:#}");
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let who = cluster.ask_as(jane(), Method::POST, path, json!({})).await.expect(201);
    assert_eq!(
        who["status"]["userInfo"],
        json!({"username": "jane", "groups": ["devs", "system:authenticated"]})
    );
    cluster.get(path).await.refused(405, "MethodNotAllowed");
}

#[tokio::test]
async fn impersonation() {
    let cluster = Cluster::start().await;
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let headers = [
        ("impersonate-user", "john"),
        ("impersonate-group", "a"),
        ("impersonate-group", "b"),
        ("impersonate-uid", "7"),
        ("impersonate-extra-acme.com%2fscope", "x"),
    ];
    let who = cluster.ask_with(Identity::admin(), Method::POST, path, json!({}), &headers).await.expect(201);
    assert_eq!(
        who["status"]["userInfo"],
        json!({"username": "john", "uid": "7", "groups": ["a", "b", "system:authenticated"], "extra": {"acme.com/scope": ["x"]}})
    );
    let account = [("impersonate-user", "system:serviceaccount:n:robot")];
    let who = cluster.ask_with(Identity::admin(), Method::POST, path, json!({}), &account).await.expect(201);
    let groups = json!(["system:serviceaccounts", "system:serviceaccounts:n", "system:authenticated"]);
    assert_eq!(who["status"]["userInfo"]["groups"], groups);
    let message = cluster
        .ask_with(jane(), Method::POST, path, json!({}), &headers[..1])
        .await
        .refused(403, "Forbidden");
    assert_eq!(
        message,
        "users \"john\" is forbidden: User \"jane\" cannot impersonate resource \"users\" in API group \"\" at the cluster scope"
    );
    let get = cluster.ask_with(Identity::admin(), Method::GET, PODS, Value::Null, &headers).await;
    get.refused(403, "Forbidden");
    assert_eq!(cluster.ask_with(jane(), Method::GET, PODS, Value::Null, &headers[1..2]).await.code, 500);
}

#[tokio::test]
async fn a_node_sees_what_its_pods_need() {
    let cluster = Cluster::start().await;
    for name in ["used", "other"] {
        cluster.post(SECRETS, json!({"metadata": {"name": name}})).await.expect(201);
    }
    cluster
        .post("/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "robot"}}))
        .await
        .expect(201);
    let made = cluster.post(PODS, pod("p", "a", "robot")).await.expect(201);
    cluster.get_as(node("a"), &format!("{SECRETS}/used")).await.expect(200);
    cluster.get_as(node("a"), &format!("{SECRETS}?fieldSelector=metadata.name%3Dused")).await.expect(200);
    cluster.get_as(node("a"), &format!("{SECRETS}/other")).await.refused(403, "Forbidden");
    cluster.get_as(node("a"), SECRETS).await.refused(403, "Forbidden");
    cluster.get_as(node("b"), &format!("{SECRETS}/used")).await.refused(403, "Forbidden");
    cluster.get_as(Identity::user("system:node:a", [""; 0]), PODS).await.refused(403, "Forbidden");

    // Tokens for what runs there, and only so.
    let tokens = "/api/v1/namespaces/default/serviceaccounts/robot/token";
    let bound = |uid: &Value| json!({"spec": {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": uid}}});
    let uid = &made["metadata"]["uid"];
    cluster.ask_as(node("a"), Method::POST, tokens, bound(uid)).await.expect(201);
    cluster.ask_as(node("b"), Method::POST, tokens, bound(uid)).await.refused(403, "Forbidden");
    let message =
        cluster.ask_as(node("a"), Method::POST, tokens, json!({"spec": {}})).await.refused(403, "Forbidden");
    assert!(message.ends_with("node requested token not bound to a pod"), "{message}");

    // It writes what is its own.
    let status = json!({"metadata": {"name": "p"}, "status": {"phase": "Running"}});
    let patch = |identity: Identity| {
        let (cluster, status) = (&cluster, status.to_string());
        async move {
            let request = Request::patch(format!("{PODS}/p/status"))
                .header("content-type", "application/merge-patch+json");
            answer(
                cluster.server.handle(request.body(Body::from(status)).expect("a request"), identity).await,
            )
            .await
        }
    };
    patch(node("b")).await.refused(403, "Forbidden");
    patch(node("a")).await.expect(200);
    cluster
        .ask_as(node("b"), Method::DELETE, &format!("{PODS}/p"), Value::Null)
        .await
        .refused(403, "Forbidden");
    cluster.ask_as(node("a"), Method::POST, PODS, pod("q", "a", "robot")).await.refused(403, "Forbidden");
    let own = json!({"metadata": {"name": "a"}});
    cluster.ask_as(node("a"), Method::POST, "/api/v1/nodes", own).await.expect(201);
    let foreign = json!({"metadata": {"name": "b"}});
    let message =
        cluster.ask_as(node("a"), Method::POST, "/api/v1/nodes", foreign).await.refused(403, "Forbidden");
    assert_eq!(message, "nodes \"b\" is forbidden: node \"a\" is not allowed to modify node \"b\"");
    let lease = json!({"metadata": {"name": "b"}});
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    cluster.ask_as(node("a"), Method::POST, leases, lease).await.refused(403, "Forbidden");
}

#[tokio::test]
async fn tokens_of_accounts() {
    let cluster = Cluster::start().await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    cluster.post(accounts, json!({"metadata": {"name": "robot"}})).await.expect(201);
    cluster.post(SECRETS, json!({"metadata": {"name": "used"}})).await.expect(201);
    let made = cluster.post(PODS, pod("p", "a", "robot")).await.expect(201);
    let tokens = format!("{accounts}/robot/token");
    let message =
        cluster.post(&tokens, json!({"spec": {"expirationSeconds": 30}})).await.refused(422, "Invalid");
    assert!(message.contains("may not specify a duration less than 10 minutes"), "{message}");
    cluster.post(&format!("{accounts}/none/token"), json!({"spec": {}})).await.refused(404, "NotFound");
    let bound = json!({"spec": {"expirationSeconds": 600, "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": made["metadata"]["uid"]}}});
    let answer = cluster.post(&tokens, bound).await.expect(201);
    assert_eq!(
        (&answer["kind"], &answer["spec"]["audiences"]),
        (&json!("TokenRequest"), &json!(["https://kubernetes.default.svc.cluster.local"]))
    );
    let token = answer["status"]["token"].as_str().unwrap().to_owned();

    cluster.get_with_token(&token, PODS).await.refused(403, "Forbidden");
    let subject = json!({"kind": "ServiceAccount", "name": "robot", "namespace": "default"});
    let path = format!("{RBAC}/namespaces/default/rolebindings");
    cluster.post(&path, binding("b", "ClusterRole", "system:kube-dns", subject)).await.expect(201);
    cluster.get_with_token(&token, "/api/v1/namespaces/default/services").await.expect(200);
    cluster.get_with_token("x", PODS).await.refused(401, "Unauthorized");
    cluster
        .get_with_token(&format!("{}x", &token[..token.len() - 1]), PODS)
        .await
        .refused(401, "Unauthorized");

    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    let review = cluster.post(reviews, json!({"spec": {"token": token}})).await.expect(201);
    let user = &review["status"]["user"];
    assert_eq!(
        (&review["status"]["authenticated"], &user["username"]),
        (&json!(true), &json!("system:serviceaccount:default:robot"))
    );
    assert_eq!(user["extra"]["authentication.kubernetes.io/pod-name"], json!(["p"]));
    assert_eq!(
        review["spec"].get("token").and_then(Value::as_str).unwrap_or_default(),
        "",
        "the token does not come back"
    );
    let other = cluster.post(&tokens, json!({"spec": {"audiences": ["vault"]}})).await.expect(201);
    let other = other["status"]["token"].as_str().unwrap();
    cluster.get_with_token(other, PODS).await.refused(401, "Unauthorized");
    let review = cluster
        .post(reviews, json!({"spec": {"token": other, "audiences": ["vault", "x"]}}))
        .await
        .expect(201);
    assert_eq!(review["status"]["audiences"], json!(["vault"]));

    // With the pod goes the token.
    cluster.delete_with(&format!("{PODS}/p"), json!({"gracePeriodSeconds": 0})).await.expect(200);
    cluster.get(PODS).await.expect(200);
    cluster.get_with_token(&token, PODS).await.refused(401, "Unauthorized");
    let review = cluster.post(reviews, json!({"spec": {"token": token}})).await.expect(201);
    assert_eq!(review["status"].get("authenticated"), None);

    let keys = cluster.get("/openid/v1/jwks").await.expect(200);
    assert_eq!(keys["keys"][0]["alg"], "ES256");
    let issuer = cluster.get("/.well-known/openid-configuration").await.expect(200);
    assert_eq!(issuer["issuer"], "https://kubernetes.default.svc.cluster.local");
    cluster.get_as(jane(), "/openid/v1/jwks").await.refused(403, "Forbidden");
}

#[tokio::test]
async fn bootstrap_tokens_are_reviewed() {
    let cluster = Cluster::start().await;
    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    let review = async |spec: serde_json::Value| {
        cluster.post(reviews, json!({"spec": spec})).await.expect(201)["status"].clone()
    };
    let token = "abcdef.0123456789abcdef";
    assert_eq!(review(json!({"token": token})).await["authenticated"], serde_json::Value::Null);
    let data = json!({"token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true"});
    let secret = json!({
        "metadata": {"name": "bootstrap-token-abcdef"}, "type": "bootstrap.kubernetes.io/token", "stringData": data,
    });
    cluster.post("/api/v1/namespaces/kube-system/secrets", secret).await.expect(201);
    let good = review(json!({"token": token})).await;
    assert_eq!(
        (&good["authenticated"], &good["user"]["username"]),
        (&json!(true), &json!("system:bootstrap:abcdef"))
    );
    // Others are not to take it.
    let other = review(json!({"token": token, "audiences": ["https://elsewhere.example.com"]})).await;
    assert_eq!(other["authenticated"], serde_json::Value::Null);
}
