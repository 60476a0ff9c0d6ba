//! Tables of document, patch and outcome, one per patch type.

use super::*;
use serde_json::json;

/// Applies and compares; an expected string is the error's text.
#[track_caller]
fn check(kind: PatchType, of: &str, current: Value, patch: Value, expected: Result<Value, &str>) {
    let outcome = apply(kind, &current, patch.to_string().as_bytes(), of);
    match (&outcome, &expected) {
        (Ok(got), Ok(wanted)) if got == wanted => {}
        (Err(why), Err(wanted)) if why.to_string() == *wanted => {}
        _ => panic!("patch {patch}\n  on {current}\n  gives {outcome:?}\n  not {expected:?}"),
    }
}

#[track_caller]
fn json_patch(current: Value, patch: Value, expected: Result<Value, &str>) {
    check(PatchType::Json, "", current, patch, expected);
}

#[track_caller]
fn pod_spec(current: Value, patch: Value, expected: Result<Value, &str>) {
    let expected = expected.map(|spec| json!({ "spec": spec }));
    check(
        PatchType::Strategic,
        "io.k8s.api.core.v1.Pod",
        json!({ "spec": current }),
        json!({ "spec": patch }),
        expected,
    );
}

#[test]
fn content_types_name_the_patch_type() {
    assert_eq!(
        PatchType::from_content_type("application/merge-patch+json; charset=utf-8"),
        Some(PatchType::Merge)
    );
    assert_eq!(
        PatchType::from_content_type("application/strategic-merge-patch+json"),
        Some(PatchType::Strategic)
    );
    assert_eq!(PatchType::from_content_type("application/json-patch+json"), Some(PatchType::Json));
    assert_eq!(PatchType::from_content_type("application/json"), None);
}

#[test]
fn json_patch_operations() {
    let ok = |current, patch, expected| json_patch(current, patch, Ok(expected));
    ok(json!({"a": [1, 2]}), json!([{"op": "add", "path": "/a/1", "value": 9}]), json!({"a": [1, 9, 2]}));
    ok(json!({"a": [1]}), json!([{"op": "add", "path": "/a/-", "value": 2}]), json!({"a": [1, 2]}));
    ok(json!({"a": 1}), json!([{"op": "add", "path": "/a~1b~0c", "value": 2}]), json!({"a": 1, "a/b~c": 2}));
    ok(json!({"a": 1, "b": 2}), json!([{"op": "remove", "path": "/a"}]), json!({"b": 2}));
    ok(json!({"a": [1, 2, 3]}), json!([{"op": "remove", "path": "/a/-1"}]), json!({"a": [1, 2]}));
    ok(json!({"a": [1, 2]}), json!([{"op": "replace", "path": "/a/0", "value": {}}]), json!({"a": [{}, 2]}));
    ok(
        json!({"a": {"b": 1}}),
        json!([{"op": "move", "from": "/a/b", "path": "/c"}]),
        json!({"a": {}, "c": 1}),
    );
    ok(
        json!({"a": {"b": 1}}),
        json!([{"op": "copy", "from": "/a", "path": "/c"}]),
        json!({"a": {"b": 1}, "c": {"b": 1}}),
    );
    ok(json!({"a": 1}), json!([{"op": "test", "path": "/a", "value": 1}]), json!({"a": 1}));
    // What upstream allows beyond the RFC.
    ok(json!({"a": {}}), json!([{"op": "replace", "path": "/a/new", "value": 1}]), json!({"a": {"new": 1}}));
    ok(json!({"a": {}}), json!([{"op": "test", "path": "/a/missing", "value": null}]), json!({"a": {}}));
}

#[test]
fn json_patch_refusals() {
    let no = |current, patch, why| json_patch(current, patch, Err(why));
    no(
        json!({"a": 1}),
        json!([{"op": "test", "path": "/a", "value": 2}]),
        "testing value /a failed: test failed",
    );
    no(
        json!({"a": {}}),
        json!([{"op": "remove", "path": "/a/b"}]),
        "error in remove for path: '/a/b': Unable to remove nonexistent key: b: missing value",
    );
    no(
        json!({}),
        json!([{"op": "add", "path": "/a/b", "value": 1}]),
        "add operation does not apply: doc is missing path: \"/a/b\": missing value",
    );
    no(
        json!({"a": [1]}),
        json!([{"op": "add", "path": "/a/3", "value": 1}]),
        "error in add for path: '/a/3': Unable to access invalid index: 3: invalid index referenced",
    );
    no(
        json!({"a": [1]}),
        json!([{"op": "replace", "path": "/a/1", "value": 1}]),
        "replace operation does not apply: doc is missing key: /a/1: missing value",
    );
    no(json!({}), json!([{"op": "jump", "path": "/a"}]), "Unexpected kind: jump");
    no(
        json!({}),
        json!({"a": 1}),
        "error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp",
    );
}

#[test]
fn errors_become_statuses() {
    for (error, code, message) in [
        (PatchError::Malformed("invalid JSON patch".to_string()), 400, "invalid JSON patch"),
        (
            PatchError::TooManyOperations(10_001),
            413,
            "Request entity too large: The allowed maximum operations in a JSON patch is 10000, got 10001",
        ),
        (
            PatchError::Rejected("testing value /a failed: test failed".to_string()),
            422,
            "the server rejected our request due to an error in our request",
        ),
    ] {
        let error = ApiError::from(error);
        assert_eq!((error.code(), error.message()), (code, message));
    }
}

#[test]
fn a_failed_operation_discards_those_before_it() {
    let current = json!({"a": 1});
    let patch = json!([{"op": "add", "path": "/b", "value": 2}, {"op": "test", "path": "/a", "value": 0}]);
    assert!(apply(PatchType::Json, &current, patch.to_string().as_bytes(), "").is_err());
}

#[test]
fn json_patch_bounds() {
    let many = vec![json!({"op": "test", "path": "/a", "value": 1}); MAX_OPERATIONS + 1];
    json_patch(
        json!({"a": 1}),
        Value::Array(many),
        Err("The allowed maximum operations in a JSON patch is 10000, got 10001"),
    );

    // Each copy into itself adds a level: without a bound, ten thousand of them.
    let nest = vec![json!({"op": "copy", "from": "/a", "path": "/a/a"}); 200];
    json_patch(
        json!({"a": {}}),
        Value::Array(nest),
        Err("error while adding value during copy: the value is nested more than 128 levels deep"),
    );

    let double = vec![json!({"op": "copy", "from": "/a", "path": "/a/-"}); 30];
    let outcome = apply(
        PatchType::Json,
        &json!({"a": ["x".repeat(1000)]}),
        Value::Array(double).to_string().as_bytes(),
        "",
    );
    assert!(matches!(outcome, Err(PatchError::Rejected(_))), "{outcome:?}");

    let shift: Vec<Value> =
        (0..MAX_OPERATIONS).map(|_| json!({"op": "add", "path": "/a/0", "value": 0})).collect();
    let outcome = apply(
        PatchType::Json,
        &json!({"a": vec![0; 100_000]}),
        Value::Array(shift).to_string().as_bytes(),
        "",
    );
    assert_eq!(
        outcome,
        Err(PatchError::Rejected(
            "error in add for path: '/a/0': the patch takes more than 50000000 steps on this document"
                .to_string()
        ))
    );
}

#[test]
fn merge_patches() {
    let check = |current, patch, expected| check(PatchType::Merge, "", current, patch, Ok(expected));
    check(json!({"a": 1, "b": 2}), json!({"a": null, "c": 3}), json!({"b": 2, "c": 3}));
    check(json!({"a": {"x": 1, "y": 2}}), json!({"a": {"x": null}}), json!({"a": {"y": 2}}));
    check(json!({"a": [1, 2]}), json!({"a": [3]}), json!({"a": [3]}));
    check(json!({"a": "text"}), json!({"a": {"x": 1, "gone": null}}), json!({"a": {"x": 1}}));
    check(json!({}), json!({"a": {"b": {"c": null}}}), json!({"a": {"b": {}}}));
}

#[test]
fn a_merge_patch_is_a_map() {
    let why =
        "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}";
    check(PatchType::Merge, "", json!({}), json!([1]), Err(why));
    assert_eq!(
        apply(PatchType::Merge, &json!({}), b"{", ""),
        Err(PatchError::Malformed("invalid JSON patch".to_string()))
    );
}

#[test]
fn strategic_lists_merge_by_their_key() {
    pod_spec(
        json!({"containers": [{"name": "a", "image": "x", "args": ["1"]}, {"name": "b"}], "nodeName": "n"}),
        json!({"containers": [{"name": "a", "image": "y", "args": ["2"]}]}),
        Ok(
            json!({"containers": [{"name": "a", "image": "y", "args": ["2"]}, {"name": "b"}], "nodeName": "n"}),
        ),
    );
    // Ports merge by number, environment by name; both lie below a list that merges itself.
    pod_spec(
        json!({"containers": [{"name": "a", "env": [{"name": "K", "value": "1"}], "ports": [{"containerPort": 80}]}]}),
        json!({"containers": [{"name": "a", "env": [{"name": "L", "value": "2"}], "ports": [{"containerPort": 80, "name": "web"}]}]}),
        Ok(json!({"containers": [{
            "name": "a",
            "env": [{"name": "L", "value": "2"}, {"name": "K", "value": "1"}],
            "ports": [{"containerPort": 80, "name": "web"}],
        }]})),
    );
    // No strategy: the list is replaced.
    pod_spec(
        json!({"tolerations": [{"key": "a"}, {"key": "b"}]}),
        json!({"tolerations": [{"key": "c"}]}),
        Ok(json!({"tolerations": [{"key": "c"}]})),
    );
}

#[test]
fn strategic_nulls_delete() {
    pod_spec(
        json!({"nodeName": "n", "hostname": "h", "containers": [{"name": "a", "image": "x"}]}),
        json!({"nodeName": null, "subdomain": null, "containers": [{"name": "a", "image": null}], "dnsConfig": {"searches": null}}),
        Ok(json!({"hostname": "h", "containers": [{"name": "a"}], "dnsConfig": {}})),
    );
}

#[test]
fn strategic_directives() {
    let current = || json!({"containers": [{"name": "a"}, {"name": "b"}], "securityContext": {"runAsUser": 1, "fsGroup": 2}});
    pod_spec(
        current(),
        json!({"containers": [{"name": "a", "$patch": "delete"}, {"name": "gone", "$patch": "delete"}]}),
        Ok(json!({"containers": [{"name": "b"}], "securityContext": {"runAsUser": 1, "fsGroup": 2}})),
    );
    pod_spec(
        current(),
        json!({"containers": [{"name": "c"}, {"$patch": "replace"}]}),
        Ok(json!({"containers": [{"name": "c"}], "securityContext": {"runAsUser": 1, "fsGroup": 2}})),
    );
    pod_spec(
        current(),
        json!({"containers": null, "securityContext": {"$patch": "replace", "runAsUser": 3}}),
        Ok(json!({"securityContext": {"runAsUser": 3}})),
    );
    pod_spec(
        current(),
        json!({"containers": null, "securityContext": {"$patch": "delete"}}),
        Ok(json!({"securityContext": {}})),
    );
    pod_spec(
        current(),
        json!({"securityContext": {"$patch": "sideways"}}),
        Err("unknown patch type: sideways in map: map[$patch:sideways]"),
    );
    pod_spec(
        current(),
        json!({"containers": [{"$patch": "merge"}]}),
        Err("merging lists cannot yet be specified in the patch"),
    );
    // A directive for something that is not there leaves nothing behind.
    pod_spec(
        json!({}),
        json!({"volumes": [{"name": "v", "$patch": "delete"}, {"name": "w"}], "affinity": {"$patch": "delete"}}),
        Ok(json!({"volumes": [{"name": "w"}]})),
    );
}

#[test]
fn strategic_lists_of_scalars() {
    let of = "io.k8s.api.core.v1.ConfigMap";
    let meta = |finalizers: Value| json!({"metadata": {"finalizers": finalizers}});
    let check = |current, patch: Value, expected| {
        check(PatchType::Strategic, of, meta(current), json!({ "metadata": patch }), Ok(meta(expected)));
    };
    check(json!(["a", "b"]), json!({"finalizers": ["c", "a"]}), json!(["c", "a", "b"]));
    check(
        json!(["a", "b", "c"]),
        json!({"$deleteFromPrimitiveList/finalizers": ["b", "x"]}),
        json!(["a", "c"]),
    );
    check(
        json!(["a", "b"]),
        json!({"$setElementOrder/finalizers": ["c", "a"], "finalizers": ["c"], "$deleteFromPrimitiveList/finalizers": ["b"]}),
        json!(["c", "a"]),
    );
}

#[test]
fn strategic_element_order() {
    let named = |names: &[&str]| -> Value { names.iter().map(|name| json!({ "name": name })).collect() };
    let check = |old: &[&str], order: &[&str], patch: Value, expected: &[&str]| {
        let mut spec = json!({"$setElementOrder/volumes": named(order)});
        if !patch.is_null() {
            spec["volumes"] = patch;
        }
        pod_spec(json!({"volumes": named(old)}), spec, Ok(json!({"volumes": named(expected)})));
    };
    check(&["a", "b", "c"], &["c", "a"], Value::Null, &["b", "c", "a"]);
    check(&["server", "a", "b"], &["b", "a"], Value::Null, &["server", "b", "a"]);
    check(&["a", "server"], &["x", "a"], named(&["x"]), &["x", "a", "server"]);
    // The new element stands in for the deleted one, so what only the server has comes before it.
    check(
        &["old", "a", "server"],
        &["a", "new"],
        json!([{"name": "new"}, {"name": "old", "$patch": "delete"}]),
        &["a", "server", "new"],
    );
    pod_spec(
        json!({"volumes": named(&["a"])}),
        json!({"$setElementOrder/volumes": named(&["a", "b"]), "volumes": named(&["b", "a"])}),
        Err("The order in patch list:\n[map[name:b] map[name:a]]\n doesn't match $setElementOrder list:\n\
             [map[name:a] map[name:b]]\n"),
    );
}

#[test]
fn strategic_retain_keys() {
    let deployment = |strategy: Value| json!({"spec": {"strategy": strategy, "replicas": 1}});
    let check = |patch: Value, expected| {
        check(
            PatchType::Strategic,
            "io.k8s.api.apps.v1.Deployment",
            deployment(json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}})),
            json!({"spec": {"strategy": patch}}),
            expected,
        );
    };
    check(json!({"$retainKeys": ["type"], "type": "Recreate"}), Ok(deployment(json!({"type": "Recreate"}))));
    check(
        json!({"type": "Recreate"}),
        Ok(deployment(json!({"type": "Recreate", "rollingUpdate": {"maxSurge": 1}}))),
    );
    check(json!({"$retainKeys": ["type"], "rollingUpdate": {}}), Err("invalid patch format of retainKeys"));
    // In a list that merges, each element may name what it keeps: another source for the same volume.
    pod_spec(
        json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
        json!({"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]}),
        Ok(json!({"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]})),
    );
}

#[test]
fn strategic_refusals() {
    pod_spec(
        json!({"containers": [{"name": "a"}]}),
        json!({"containers": [{"image": "x"}]}),
        Err("map: map[image:x] does not contain declared merge key: name"),
    );
    pod_spec(
        json!({"containers": [{"name": "a"}]}),
        json!({"containers": ["a"]}),
        Err("list element types are not identical: [[map[name:a]] [a]]"),
    );
    pod_spec(
        json!({"containers": [{"name": "a"}]}),
        json!({"containers": [["a"], ["b"]], "$setElementOrder/containers": 1}),
        Err("expected a []interface {}, but received a int64"),
    );
    pod_spec(
        json!({"containers": []}),
        json!({"containers": [["a"]]}),
        Err("lists of lists are not supported"),
    );
    pod_spec(
        json!({}),
        json!({"$deleteFromPrimitiveList": ["a"]}),
        Err("invalid patch format of primitive list"),
    );
    let why = "json: cannot unmarshal array into Go value of type map[string]interface {}";
    check(PatchType::Strategic, "io.k8s.api.core.v1.Pod", json!({}), json!([]), Err(why));
}

#[test]
fn long_lists_do_not_take_quadratic_time() {
    let named =
        |from: usize, to: usize| -> Value { (from..to).map(|n| json!({"name": n.to_string()})).collect() };
    let current = json!({"spec": {"volumes": named(0, 20_000)}});
    let patch = json!({"spec": {"volumes": named(10_000, 30_000), "$setElementOrder/volumes": named(10_000, 30_000)}});
    let started = std::time::Instant::now();
    let patched =
        apply(PatchType::Strategic, &current, patch.to_string().as_bytes(), "io.k8s.api.core.v1.Pod");
    assert_eq!(patched.map(|pod| pod["spec"]["volumes"].as_array().map(Vec::len)), Ok(Some(30_000)));
    // Comparing each with each takes minutes here; the bound is wide for slow machines.
    assert!(started.elapsed().as_secs() < 20, "took {:?}", started.elapsed());
}
