use k8s_openapi::api::core::v1::Pod;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::field::{FieldError, Path};

fn values(text: &str) -> Vec<Value> {
    let documents = read("test.yaml", text.as_bytes()).unwrap_or_else(|error| panic!("{error}\n{text}"));
    documents.into_iter().map(|document| document.value).collect()
}

fn check(text: &str, expected: Value) {
    assert_eq!(values(text), [expected], "{text}");
}

fn check_error(text: &str, expected: &str) {
    match read("test.yaml", text.as_bytes()) {
        Ok(documents) => panic!("{text} was read as {documents:?}"),
        Err(error) => assert_eq!(error.to_string(), expected, "{text}"),
    }
}

#[test]
fn scalars() {
    check("mode: 0644", json!({"mode": 420}));
    check(
        "a: yes\nb: 'yes'\nc: \"0644\"\nd: !!str 12",
        json!({"a": true, "b": "yes", "c": "0644", "d": "12"}),
    );
    check("a:\nb: ~\nc: ''", json!({"a": null, "b": null, "c": ""}));
    check("a: 12:30\nb: 2001-01-01", json!({"a": "12:30", "b": "2001-01-01"}));
    check("a: !!binary aGVsbG8=", json!({"a": "hello"}));
    check("a: !custom x", json!({"a": "x"}));
    check("a: ! 12", json!({"a": "12"}));
    check("on: 1\n0644: 2\n1.5: 3\n'': 4", json!({"true": 1, "420": 2, "1.5": 3, "": 4}));
    check("- a\n- - b\n- {c: d}", json!(["a", ["b"], {"c": "d"}]));
}

#[test]
fn block_scalars() {
    check("a: |\n  x\n   y\n\n", json!({"a": "x\n y\n"}));
    check("a: |-\n  x\n", json!({"a": "x"}));
    check("a: |+\n  x\n\n", json!({"a": "x\n\n"}));
    check("a: >\n  x\n  y\n", json!({"a": "x y\n"}));
    check("a: |\n  yes", json!({"a": "yes"}));
    check("a: |\n  #!/bin/sh\n  echo \"---\"\n", json!({"a": "#!/bin/sh\necho \"---\"\n"}));
}

#[test]
fn documents() {
    let text = "# nothing\n---\n# still nothing\n---\na: 1\n...\n---\nb: 2\n---\n---\nc: 3 # end\n";
    assert_eq!(values(text), [json!({"a": 1}), json!({"b": 2}), json!({"c": 3})]);
    assert_eq!(values(""), [] as [Value; 0]);
    assert_eq!(values("---\n"), [] as [Value; 0]);
    assert_eq!(values("%YAML 1.1\n---\na: 1\n"), [json!({"a": 1})]);
    assert_eq!(values("a: 1\r\nb:\r\n  - 2\r\n"), [json!({"a": 1, "b": [2]})]);
    assert_eq!(values("\u{feff}a: 1"), [json!({"a": 1})]);
}

#[test]
fn json_too() {
    check(
        "{\"a\": [1, 2.5, true, null, \"yes\"], \"b\": {\"c\": \"\\u00e4\\n\"}}",
        json!({"a": [1, 2.5, true, null, "yes"], "b": {"c": "ä\n"}}),
    );
    check("{\n\t\"a\": {\n\t\t\"b\": 1\n\t}\n}\n", json!({"a": {"b": 1}}));
    check("{\"url\": \"http://x/\", \"a\":1}", json!({"url": "http://x/", "a": 1}));
    assert_eq!(
        values("{\"a\": 1}\n{\"b\": 2}\n  {\"c\": 3}"),
        [json!({"a": 1}), json!({"b": 2}), json!({"c": 3})]
    );
}

#[test]
fn anchors_and_merge_keys() {
    check("a: &x [1]\nb: *x", json!({"a": [1], "b": [1]}));
    check(
        "base: &b {x: 1, w: 2}\nd:\n  <<: *b\n  w: 3",
        json!({"base": {"x": 1, "w": 2}, "d": {"x": 1, "w": 3}}),
    );
    check("d:\n  w: 3\n  <<: {x: 1, w: 2}", json!({"d": {"x": 1, "w": 2}}));
    check(
        "- &a {x: 1}\n- &b {x: 2, w: 2}\n- {<<: [*a, *b], z: 3}",
        json!([{"x": 1}, {"x": 2, "w": 2}, {"x": 1, "w": 2, "z": 3}]),
    );
    check("'<<': 1", json!({"<<": 1}));
    check("&k key: 1\nb: *k", json!({"key": 1, "b": "key"}));
    check("a: &x 1\na2: &x 2\nb: *x", json!({"a": 1, "a2": 2, "b": 2}));
    check_error("a: {<<: 1}", "test.yaml:1:5: a: map merge requires map or sequence of maps as the value");
    check_error("a: &x [*x]", "test.yaml:1:8: a[0]: an anchor's value contains itself");
}

#[test]
fn errors() {
    check_error(
        "a: 1\nb:\n  c: 1\n  d: 2\n  c: 3",
        "test.yaml:5:3: b: key \"c\" already set in map, in line 3",
    );
    check_error(
        "spec:\n  ports:\n  - a: 1\n  - a: b: c",
        "test.yaml:4:9: spec.ports[1]: mapping values are not allowed in this context",
    );
    check_error("? [a]\n: b", "test.yaml:1:3: invalid map key: a key must be a scalar");
    check_error("~: b", "test.yaml:1:1: invalid map key: null");
    check_error("a: .inf", "test.yaml:1:4: a: json: unsupported value: +Inf");
    check_error("a: !!int b", "test.yaml:1:10: a: cannot decode !!str `b` as a !!int");
    assert_eq!(read("x", b"a: 1\nb: \xff").unwrap_err().to_string(), "x:2:4: not valid UTF-8");
    for text in ["a: *x", "a: [1", "a: 'x", "a:\n\tb: 1", "a: 1\n b: 2", "a: @x", "{\"a\": 1} x"] {
        let error = read("test.yaml", text.as_bytes()).unwrap_err();
        assert!(error.position.line >= 1 && error.position.column >= 1, "{error}");
        assert!(!error.message.is_empty(), "{text}");
    }
}

#[test]
fn bounds() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let below = level - 1;
        bomb += &format!(
            "a{level}: &a{level} [*a{below}, *a{below}, *a{below}, *a{below}, *a{below}, *a{below}, *a{below}, *a{below}]\n"
        );
    }
    let error = read("bomb", bomb.as_bytes()).unwrap_err();
    assert!(error.message.ends_with("document contains excessive aliasing"), "{error}");

    let mut tower = "a0: &a0 [x]\n".to_owned();
    for level in 1..200 {
        tower += &format!("a{level}: &a{level} [*a{}]\n", level - 1);
    }
    let error = read("tower", tower.as_bytes()).unwrap_err();
    assert!(error.message.ends_with("exceeded max depth of 100"), "{error}");

    for text in ["[".repeat(5000), "{a: ".repeat(5000), "- ".repeat(5000), "? ".repeat(5000)] {
        assert!(read("deep", text.as_bytes()).is_err());
    }
    let wide: String = (0..20_000).map(|index| format!("k{index}: {index}\n")).collect();
    assert_eq!(values(&wide)[0].as_object().unwrap().len(), 20_000);
}

const POD: &str = "\
apiVersion: v1
kind: Pod
metadata:
  name: web
  labels: {a.b/c: d}
spec:
  containers:
  - name: web
    image: nginx
    foo: bar
    env:
    - name: A
      value: 1
";

#[test]
fn positions() {
    let document = &read("pod.yaml", POD.as_bytes()).unwrap()[0];
    for (path, line, column) in [
        ("", 1, 1),
        ("metadata.name", 4, 3),
        ("metadata.labels[a.b/c]", 5, 12),
        ("metadata.labels.a.b/c", 5, 12),
        ("spec.containers", 7, 3),
        ("spec.containers[0]", 8, 5),
        ("spec.containers[0].image", 9, 5),
        ("spec.containers[0].env[0].value", 13, 7),
        ("spec.containers[0].ports[0].containerPort", 8, 5),
        ("spec.containers[7].image", 7, 3),
        ("nothing.there", 1, 1),
    ] {
        assert_eq!(document.position(path), Position { line, column }, "{path}");
    }
    assert_eq!((document.api_version(), document.kind()), ("v1", "Pod"));
}

#[test]
fn decoding_says_where() {
    let document = &read("pod.yaml", POD.as_bytes()).unwrap()[0];
    let errors = document.decode::<Pod>(FieldValidation::Strict).unwrap_err();
    assert_eq!(
        errors[0].to_string(),
        "pod.yaml:13:7: json: cannot unmarshal number into Go struct field EnvVar.spec.containers.env.value of type string"
    );
    let fixed = POD.replace("value: 1", "value: '1'");
    let document = &read("pod.yaml", fixed.as_bytes()).unwrap()[0];
    let errors = document.decode::<Pod>(FieldValidation::Strict).unwrap_err();
    assert_eq!(errors[0].to_string(), "pod.yaml:10:5: unknown field \"spec.containers[0].foo\"");
    let (_, warnings) = document.decode::<Pod>(FieldValidation::Warn).unwrap();
    assert_eq!(warnings, errors);

    let path = Path::new("spec").child("containers").index(0).child("ports");
    let errors = ErrorList::from_iter([FieldError::required(&path, "")]);
    assert_eq!(
        document.locate(&errors)[0].to_string(),
        "pod.yaml:8:5: spec.containers[0].ports: Required value"
    );
}

#[test]
fn positions_behind_aliases() {
    let text = "base: &b\n  x: 1\n  w: 2\nuse:\n  <<: *b\n  w: 3\nall: *b\n";
    let document = &read("a", text.as_bytes()).unwrap()[0];
    assert_eq!(document.position("use.x"), Position { line: 2, column: 3 });
    assert_eq!(document.position("use.w"), Position { line: 6, column: 3 });
    assert_eq!(document.position("all"), Position { line: 7, column: 1 });
    assert_eq!(document.position("all.w"), Position { line: 3, column: 3 });
}

#[test]
fn lists_are_their_items() {
    let text = "kind: List\napiVersion: v1\nitems:\n- kind: Pod\n  metadata: {name: a}\n- kind: PodList\n  items:\n  - kind: Pod\n    spec: 1\n";
    let objects = read("a", text.as_bytes()).unwrap().remove(0).into_objects();
    assert_eq!(objects.len(), 2);
    assert_eq!(objects[0].position("metadata.name"), Position { line: 5, column: 14 });
    assert_eq!(objects[1].position("spec"), Position { line: 9, column: 5 });
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "[a-c0-9:\\-\\[\\]{},&*<'\"|>\n #!~]{0,60}|.{0,40}") {
        let _ = read("any", text.as_bytes());
    }

    #[test]
    fn json_reads_as_it_is(value in json_values()) {
        prop_assume!(!value.is_null());
        let text = serde_json::to_string(&value).unwrap();
        prop_assert_eq!(values(&text), [value]);
    }
}

fn json_values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[ -~äö\n\t]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("[ -~ä]{0,8}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}
