//! Session data over HTTP: whole and by path, versions, bounds, what it survives, and who never sees it.

use reqwest::Method;
use serde_json::{Value, json};
use tempfile::tempdir;

use crate::harness::{Reply, Request, TestServer, events, open_database};
use crate::process::{Process, Served, create_key, sessiond};
use crate::support::{DAY, UNKNOWN_ID, add_app, at, at_once, count, rows, with_status};
use crate::wire::{assert_unchanged, dump};

/// The most that a session's data may have, in bytes of JSON without spaces.
const LEN_MAX: usize = 64 * 1024;

fn path_of(id: &str) -> String {
    format!("/v1/sessions/{id}/data")
}

/// A call at a session's data; `query` begins with a question mark if it is not empty.
fn call<'s>(server: &'s TestServer, method: &str, id: &str, query: &str) -> Request<'s> {
    let method = Method::from_bytes(method.as_bytes()).expect("a method");
    server
        .request(method, &format!("{}{query}", path_of(id)))
        .key(&server.key)
}

async fn get(server: &TestServer, id: &str, query: &str) -> Reply {
    call(server, "GET", id, query).send().await
}

async fn put(server: &TestServer, id: &str, query: &str, body: Value) -> Reply {
    call(server, "PUT", id, query).json(body).send().await
}

async fn patch(server: &TestServer, id: &str, query: &str, body: Value) -> Reply {
    call(server, "PATCH", id, query).json(body).send().await
}

async fn delete(server: &TestServer, id: &str, query: &str) -> Reply {
    call(server, "DELETE", id, query).send().await
}

/// The text of what was answered as data, byte for byte, and its version.
#[track_caller]
fn answered(reply: &Reply) -> (&str, u64) {
    assert_eq!(reply.status, 200, "{}", reply.text);
    let inner = reply.text.strip_prefix(r#"{"data":"#).expect("data first");
    let (data, version) = inner.rsplit_once(r#","data_version":"#).expect("its version");
    let version = version.strip_suffix('}').expect("nothing behind it");
    (data, version.parse().expect("a number"))
}

/// Asserts what all of the data is, byte for byte, and its version.
async fn assert_data(server: &TestServer, id: &str, expected: &str, version: u64) {
    let reply = get(server, id, "").await;
    assert_eq!(answered(&reply), (expected, version));
}

/// A server and a session of ada's with this data; its version is 1.
async fn with_data(data: Value) -> (TestServer, String) {
    let server = TestServer::start().await;
    let ada = server.create(json!({ "user_id": "ada", "data": data })).await;
    (server, ada.id)
}

/// An object whose text has exactly so many bytes.
fn object_of(len: usize) -> Value {
    json!({ "a": "x".repeat(len - r#"{"a":""}"#.len()) })
}

/// Lists, one inside the other.
fn nested(levels: usize) -> Value {
    (0..levels).fold(json!(1), |value, _| json!([value]))
}

// Whole and by path

#[tokio::test]
async fn session_without_data_has_an_empty_object_of_version_0() {
    let server = TestServer::start().await;
    let ada = server.sign_in("ada").await;

    let reply = get(&server, &ada.id, "").await;

    assert_eq!(reply.text, r#"{"data":{},"data_version":0}"#);
    assert_eq!(reply.header("etag"), Some(r#""0""#));
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    assert_eq!(get(&server, &ada.id, "?path=a").await.json["data"], Value::Null);
}

#[tokio::test]
async fn whole_data_is_put_read_patched_and_deleted() {
    let server = TestServer::start().await;
    let id = server.sign_in("ada").await.id;

    let replies = [
        put(&server, &id, "", json!({ "cart": [1, 2], "step": 1 })).await,
        get(&server, &id, "").await,
        patch(&server, &id, "", json!({ "step": 2, "cart": null })).await,
        get(&server, &id, "").await,
        put(&server, &id, "", json!({ "new": true })).await,
        delete(&server, &id, "").await,
        get(&server, &id, "").await,
    ];

    let expected = [
        (r#"{"cart":[1,2],"step":1}"#, 1),
        (r#"{"cart":[1,2],"step":1}"#, 1),
        (r#"{"step":2}"#, 2),
        (r#"{"step":2}"#, 2),
        (r#"{"new":true}"#, 3),
        ("{}", 4),
        ("{}", 4),
    ];
    assert_eq!(replies.each_ref().map(answered), expected);
    for reply in &replies {
        let etag = format!("\"{}\"", reply.json["data_version"]);
        assert_eq!(reply.header("etag"), Some(etag.as_str()));
    }
}

#[tokio::test]
async fn values_at_a_path_are_put_read_patched_and_deleted() {
    let (server, id) = with_data(json!({ "z": 0 })).await;

    let replies = [
        put(&server, &id, "?path=a.b.c", json!(1)).await,
        get(&server, &id, "?path=a.b.c").await,
        get(&server, &id, "?path=a").await,
        patch(&server, &id, "?path=a.b", json!({ "d": 2, "c": null })).await,
        delete(&server, &id, "?path=a.b.d").await,
        get(&server, &id, "").await,
    ];

    let expected = [
        ("1", 2),
        ("1", 2),
        (r#"{"b":{"c":1}}"#, 2),
        (r#"{"d":2}"#, 3),
        ("null", 4),
        (r#"{"z":0,"a":{"b":{}}}"#, 4),
    ];
    assert_eq!(replies.each_ref().map(answered), expected);
}

#[tokio::test]
async fn missing_path_is_null_and_no_404() {
    let (server, id) = with_data(json!({ "a": { "b": 1, "list": [{ "x": 1 }], "null": null } })).await;
    for missing in ["x", "a.x", "a.b.c", "a.list.0", "a.list.x", "a.null.x", "A"] {
        let reply = get(&server, &id, &format!("?path={missing}")).await;
        assert_eq!(answered(&reply), ("null", 1), "{missing}");
    }
}

#[tokio::test]
async fn deeper_write_replaces_a_scalar() {
    for scalar in [json!(7), json!("text"), json!(true), json!(null)] {
        let (server, id) = with_data(json!({ "before": 1, "a": scalar, "after": 2 })).await;
        put(&server, &id, "?path=a.b.c", json!(1)).await;
        assert_data(&server, &id, r#"{"before":1,"a":{"b":{"c":1}},"after":2}"#, 2).await;
    }
}

#[tokio::test]
async fn write_into_a_list_is_422_and_changes_nothing() {
    let (server, id) = with_data(json!({ "a": [1, 2], "b": { "c": [] } })).await;
    for path in ["a.0", "a.b.c", "b.c.d"] {
        let query = format!("?path={path}");
        let put = put(&server, &id, &query, json!(9)).await;
        let patched = patch(&server, &id, &query, json!({ "x": 9 })).await;
        for reply in [put, patched] {
            assert_eq!(
                (reply.status, reply.wrong_fields()),
                (422, vec!["path"]),
                "{path}"
            );
        }
    }
    assert_data(&server, &id, r#"{"a":[1,2],"b":{"c":[]}}"#, 1).await;
}

#[tokio::test]
async fn patch_at_a_path_makes_levels_and_replaces_a_scalar() {
    let (server, id) = with_data(json!({ "a": 7 })).await;

    patch(&server, &id, "?path=a.b", json!({ "c": { "d": null, "e": 1 } })).await;
    patch(&server, &id, "?path=n", json!("scalar")).await;

    assert_data(&server, &id, r#"{"a":{"b":{"c":{"e":1}}},"n":"scalar"}"#, 3).await;
}

#[tokio::test]
async fn null_is_put_as_a_value_and_patched_as_a_removal() {
    let (server, id) = with_data(json!({ "a": 1, "b": 2 })).await;

    put(&server, &id, "?path=a", Value::Null).await;
    patch(&server, &id, "", json!({ "b": null })).await;

    assert_data(&server, &id, r#"{"a":null}"#, 3).await;
}

#[tokio::test]
async fn merge_patches_are_those_of_the_rfc() {
    let server = TestServer::start().await;
    let id = server.sign_in("ada").await.id;
    // RFC 7396, appendix A: those whose target and result are objects.
    let cases = [
        (json!({ "a": "b" }), json!({ "a": "c" }), r#"{"a":"c"}"#),
        (json!({ "a": "b" }), json!({ "b": "c" }), r#"{"a":"b","b":"c"}"#),
        (json!({ "a": "b" }), json!({ "a": null }), "{}"),
        (
            json!({ "a": "b", "b": "c" }),
            json!({ "a": null }),
            r#"{"b":"c"}"#,
        ),
        (json!({ "a": ["b"] }), json!({ "a": "c" }), r#"{"a":"c"}"#),
        (json!({ "a": "c" }), json!({ "a": ["b"] }), r#"{"a":["b"]}"#),
        (
            json!({ "a": { "b": "c" } }),
            json!({ "a": { "b": "d", "c": null } }),
            r#"{"a":{"b":"d"}}"#,
        ),
        (
            json!({ "a": [{ "b": "c" }] }),
            json!({ "a": [1] }),
            r#"{"a":[1]}"#,
        ),
        (json!({ "e": null }), json!({ "a": 1 }), r#"{"e":null,"a":1}"#),
        (
            json!({}),
            json!({ "a": { "bb": { "ccc": null } } }),
            r#"{"a":{"bb":{}}}"#,
        ),
    ];
    for (before, change, expected) in cases {
        put(&server, &id, "", before.clone()).await;
        let reply = patch(&server, &id, "", change.clone()).await;
        assert_eq!(answered(&reply).0, expected, "{before} + {change}");
        let read = get(&server, &id, "").await;
        assert_eq!(answered(&read).0, expected, "{before} + {change}: as read again");
    }
}

#[tokio::test]
async fn all_of_the_data_is_an_object_or_the_call_is_refused() {
    let (server, id) = with_data(json!({ "a": 1 })).await;
    let before = dump(&server).await;
    for body in [
        json!(null),
        json!([]),
        json!([{}]),
        json!("x"),
        json!(1),
        json!(true),
    ] {
        for reply in [
            put(&server, &id, "", body.clone()).await,
            patch(&server, &id, "", body.clone()).await,
        ] {
            reply.assert_problem(422, "validation_failed");
            assert_eq!(reply.wrong_fields(), ["body"], "{body}");
        }
    }
    assert_unchanged(&before, &dump(&server).await);
}

// What values are kept as

#[tokio::test]
async fn order_of_keys_is_kept_byte_for_byte() {
    let server = TestServer::start().await;
    let id = server.sign_in("ada").await.id;
    let data = r#"{"zebra":1,"apple":{"y":1,"b":[{"q":1,"a":2}],"x":3},"10":0,"9":0,"Ä":0,"":0,"m":3}"#;
    let whole = call(&server, "PUT", &id, "").raw("application/json", data.as_bytes());

    assert_eq!(answered(&whole.send().await), (data, 1));

    assert_data(&server, &id, data, 1).await;
    put(&server, &id, "?path=apple.b", json!(0)).await;
    delete(&server, &id, "?path=zebra").await;
    patch(&server, &id, "", json!({ "9": 1, "new": 1, "10": null })).await;
    let expected = r#"{"apple":{"y":1,"b":0,"x":3},"9":1,"Ä":0,"":0,"m":3,"new":1}"#;
    assert_data(&server, &id, expected, 4).await;
}

#[tokio::test]
async fn values_come_back_as_they_were_given() {
    let server = TestServer::start().await;
    let values = [
        "0",
        "-1",
        "9007199254740993",
        "18446744073709551615",
        "-9223372036854775808",
        "0.1",
        "1.5",
        "1.7976931348623157e308",
        "5e-324",
        r#""""#,
        "\"é ☃ 💥 e\u{301} \u{202e}\"",
        r#""\u0000\u001f\"\\\n""#,
        r#"{"":{"":0}," ":1,"a.b":2,"\n":3,"💥":4}"#,
        "[[],{},[null,true,false]]",
    ];
    for value in values {
        let id = server.sign_in("ada").await.id;
        let body = format!(r#"{{"v":{value}}}"#);
        let reply = call(&server, "PUT", &id, "").raw("application/json", body.as_bytes());
        let reply = reply.send().await;
        assert_eq!(reply.status, 200, "{value}: {}", reply.text);
        let given: Value = serde_json::from_str(value).expect("JSON");
        assert_eq!(reply.json["data"]["v"], given, "{value}");
        assert_eq!(get(&server, &id, "?path=v").await.json["data"], given, "{value}");
    }
}

#[tokio::test]
async fn fractions_keep_every_bit_through_other_changes() {
    // Numbers that a parser which rounds carelessly gives back a little smaller or larger.
    let fractions = [
        "0.0032345678901234567",
        "2.638344616030823e-256",
        "7.2057594037927933e16",
        "31.245270191439438",
        "121.48791951161945",
        "100.78399658203125",
        "1.0715660391465826e-208",
    ]
    .map(|text| text.parse::<f64>().expect("a number"));
    let server = TestServer::start().await;
    let id = server.sign_in("ada").await.id;
    let body = format!(r#"{{"v":{fractions:?}}}"#);
    let put = call(&server, "PUT", &id, "").raw("application/json", body.as_bytes());
    assert_eq!(put.send().await.status, 200);
    for step in 0..5 {
        patch(&server, &id, "", json!({ "step": step })).await;
    }

    let reply = get(&server, &id, "?path=v").await;

    let (data, _) = answered(&reply);
    let kept = data.trim_matches(['[', ']']).split(',');
    let kept: Vec<f64> = kept.map(|text| text.parse().expect("a number")).collect();
    assert_eq!(kept, fractions);
}

#[tokio::test]
async fn keys_in_paths_are_percent_decoded_text() {
    let (server, id) = with_data(json!({})).await;
    let paths = [
        ("a%20b", "a b"),
        ("a+c", "a c"),
        ("%C3%A9", "é"),
        ("%F0%9F%92%A5", "💥"),
        ("%26%3D%23%3F%2F", "&=#?/"),
        ("%2525", "%25"),
        ("0", "0"),
        ("-", "-"),
        ("__proto__", "__proto__"),
        ("%00", "\0"),
    ];
    for (encoded, key) in paths {
        let reply = put(&server, &id, &format!("?path={encoded}.x"), json!(key)).await;
        assert_eq!(reply.status, 200, "{encoded}: {}", reply.text);
        let whole = get(&server, &id, "").await;
        assert_eq!(whole.json["data"][key], json!({ "x": key }), "{encoded}");
    }
}

#[tokio::test]
async fn path_that_breaks_the_rule_is_422_whatever_the_call() {
    let (server, id) = with_data(json!({ "a": { "b": 1 } })).await;
    let before = dump(&server).await;
    let too_long = format!("path={}", "k".repeat(513));
    let too_many = format!("path={}", vec!["k"; 33].join("."));
    let queries = [
        "path=",
        "path=.",
        "path=a.",
        "path=.a",
        "path=a..b",
        "path=%ff",
        "path=a%C3",
        "path=%2",
        "path=a&path=a",
        "path",
        &too_long,
        &too_many,
    ];
    for query in queries {
        for method in ["GET", "PUT", "PATCH", "DELETE"] {
            let mut request = call(&server, method, &id, &format!("?{query}"));
            if ["PUT", "PATCH"].contains(&method) {
                request = request.json(json!({}));
            }
            let reply = request.send().await;
            assert_eq!(
                (reply.status, reply.wrong_fields()),
                (422, vec!["path"]),
                "{method} {query:.40}: {}",
                reply.text
            );
        }
    }
    assert_unchanged(&before, &dump(&server).await);
}

#[tokio::test]
async fn longest_paths_are_taken() {
    let (server, id) = with_data(json!({})).await;
    for path in ["k".repeat(512), vec!["k"; 32].join(".")] {
        let query = format!("?path={path}");
        assert_eq!(
            put(&server, &id, &query, json!(5)).await.status,
            200,
            "{path:.40}"
        );
        assert_eq!(get(&server, &id, &query).await.json["data"], 5, "{path:.40}");
    }
}

// Versions

#[tokio::test]
async fn change_is_made_if_a_named_version_is_the_present_one() {
    let server = TestServer::start().await;
    let id = server.sign_in("ada").await.id;
    let good = [
        r#""0""#,
        "*",
        r#""7", "2", "x""#,
        r#""7","3""#,
        r#"W/"9" , "4""#,
        r#""a b", "5""#,
        r#", ,"6", "#,
        r#""a,b",	"7""#,
        r#"W/"8,9" ,"8""#,
    ];
    for (version, tags) in (0..).zip(good) {
        let request = call(&server, "PATCH", &id, "").header("if-match", tags);
        let reply = request.json(json!({ "n": version })).send().await;
        assert_eq!(answered(&reply).1, version + 1, "{tags}");
    }
    let lines = call(&server, "DELETE", &id, "")
        .header("if-match", r#""1""#)
        .header("if-match", r#""9""#);
    assert_eq!(answered(&lines.send().await), ("{}", 10), "in two header lines");
}

#[tokio::test]
async fn change_with_a_version_that_is_not_the_present_one_is_412_and_changes_nothing() {
    let (server, id) = with_data(json!({ "a": 1 })).await;
    patch(&server, &id, "", json!({ "b": 2 })).await;
    let before = dump(&server).await;
    let stale = [
        r#""1""#,
        r#""3""#,
        r#"W/"2""#,
        r#""1", "3""#,
        r#""02""#,
        r#""+2""#,
        r#"" 2""#,
        r#""2.0""#,
        r#""""#,
        r#""x""#,
        r#""18446744073709551618""#,
        r#""1,2""#,
        r#"W/"2","x""#,
    ];
    for tags in stale {
        for (method, query) in [
            ("PUT", ""),
            ("PATCH", "?path=a"),
            ("DELETE", ""),
            ("GET", "?take=true"),
        ] {
            let mut request = call(&server, method, &id, query).header("if-match", tags);
            if ["PUT", "PATCH"].contains(&method) {
                request = request.json(json!({}));
            }
            let reply = request.send().await;
            assert_eq!(reply.status, 412, "{method} {tags}: {}", reply.text);
            reply.assert_problem(412, "version_mismatch");
        }
    }
    assert_unchanged(&before, &dump(&server).await);
}

#[tokio::test]
async fn if_match_that_names_no_etag_is_422_and_changes_nothing() {
    let (server, id) = with_data(json!({ "a": 1 })).await;
    let before = dump(&server).await;
    let many = vec![r#""1""#; 17].join(",");
    for tags in [
        "",
        "1",
        "\"1",
        "1\"",
        "'1'",
        "w/\"1\"",
        "W/1",
        "\"1\" \"1\"x",
        "\"1\" \"0\"",
        "\"1\"x",
        "*x",
        " , ,",
        "W/ \"1\"",
        "é",
        &many,
    ] {
        let request = call(&server, "PUT", &id, "").header("if-match", tags);
        let reply = request.json(json!({})).send().await;
        assert_eq!(
            (reply.status, reply.wrong_fields()),
            (422, vec!["If-Match"]),
            "{tags}: {}",
            reply.text
        );
    }
    assert_unchanged(&before, &dump(&server).await);
}

#[tokio::test]
async fn answer_of_a_change_has_the_etag_for_the_next_one() {
    let (server, id) = with_data(json!({})).await;
    let mut etag = r#""1""#.to_owned();
    for step in 0..5 {
        let request = call(&server, "PUT", &id, "?path=n").header("if-match", &etag);
        let reply = request.json(json!(step)).send().await;
        assert_eq!(answered(&reply), (step.to_string().as_str(), step + 2));
        etag = reply.header("etag").expect("an ETag").to_owned();
    }
}

// Bounds

#[tokio::test]
async fn body_of_64_kib_fits_and_one_byte_more_is_413() {
    let server = TestServer::start().await;
    let id = server.sign_in("ada").await.id;
    let (fits, too_much) = (object_of(LEN_MAX), object_of(LEN_MAX + 1));

    assert_eq!(put(&server, &id, "", fits.clone()).await.status, 200);
    put(&server, &id, "", too_much.clone())
        .await
        .assert_problem(413, "payload_too_large");
    patch(&server, &id, "", too_much)
        .await
        .assert_problem(413, "payload_too_large");

    assert_data(&server, &id, &fits.to_string(), 1).await;
}

#[tokio::test]
async fn patches_that_add_up_to_more_than_64_kib_are_413_and_change_nothing() {
    let server = TestServer::start().await;
    let id = server.sign_in("ada").await.id;
    for number in 0..6 {
        let reply = patch(
            &server,
            &id,
            "",
            json!({ format!("k{number}"): "x".repeat(10_000) }),
        )
        .await;
        assert_eq!(reply.status, 200, "{}", reply.text);
    }
    let before = get(&server, &id, "").await.text;
    let room = LEN_MAX - answered(&get(&server, &id, "").await).0.len() - r#","k6":"""#.len();

    let refused = patch(&server, &id, "", json!({ "k6": "x".repeat(room + 1) })).await;

    refused.assert_problem(413, "payload_too_large");
    assert_eq!(get(&server, &id, "").await.text, before);
    let last = patch(&server, &id, "", json!({ "k6": "x".repeat(room) })).await;
    assert_eq!(answered(&last).0.len(), LEN_MAX, "to the byte");
}

#[tokio::test]
async fn value_at_a_path_that_makes_more_than_64_kib_is_413_and_changes_nothing() {
    let (server, id) = with_data(object_of(LEN_MAX - 100)).await;
    let room = 100 - r#","deep":{"er":""}"#.len();
    let before = get(&server, &id, "").await.text;

    let refused = put(&server, &id, "?path=deep.er", json!("x".repeat(room + 1))).await;

    refused.assert_problem(413, "payload_too_large");
    assert_eq!(get(&server, &id, "").await.text, before);
    let fits = put(&server, &id, "?path=deep.er", json!("x".repeat(room))).await;
    assert_eq!(fits.status, 200, "{}", fits.text);
    assert_eq!(answered(&get(&server, &id, "").await).0.len(), LEN_MAX);
}

#[tokio::test]
async fn too_much_data_at_a_creation_is_413_and_starts_nothing() {
    let server = TestServer::start().await;
    // As long as a body can be, but longer once its numbers are written out.
    let grown = format!(r#"{{"data":{{"a":[{}]}}}}"#, vec!["1e15"; 5_000].join(","));
    let long = json!({ "data": object_of(LEN_MAX + 1) }).to_string();
    for body in [grown, long] {
        let request = server.request(Method::POST, "/v1/sessions").key(&server.key);
        let reply = request.raw("application/json", body.as_bytes()).send().await;
        reply.assert_problem(413, "payload_too_large");
    }
    assert_eq!(count(&server, "SELECT count(*) FROM sessions"), 0);
    assert_eq!(count(&server, "SELECT count(*) FROM events"), 0);
    let fits = object_of(LEN_MAX - r#"{"data":}"#.len());
    let id = server.create(json!({ "data": fits })).await.id;
    assert_data(&server, &id, &fits.to_string(), 1).await;
}

#[tokio::test]
async fn data_may_have_64_levels_and_more_are_422_however_many() {
    let (server, id) = with_data(json!({ "a": 1 })).await;
    let before = dump(&server).await;
    for levels in [64, 65, 126, 127, 128, 500, 20_000] {
        let list = format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        let object = format!(r#"{{"deep":{list}}}"#);
        for (method, query, body) in [
            ("PUT", "", &object),
            ("PATCH", "", &object),
            ("PUT", "?path=deep", &list),
        ] {
            let request = call(&server, method, &id, query).raw("application/json", body.as_bytes());
            let reply = request.send().await;
            assert_eq!(
                (reply.status, reply.wrong_fields()),
                (422, vec!["body"]),
                "{method} {query} {levels}: {:.300}",
                reply.text
            );
        }
        let create = server.request(Method::POST, "/v1/sessions").key(&server.key);
        let body = format!(r#"{{"data":{object}}}"#);
        let reply = create.raw("application/json", body.as_bytes()).send().await;
        assert_eq!(reply.status, 422, "{levels}: {:.300}", reply.text);
    }
    assert_unchanged(&before, &dump(&server).await);
    let deepest = put(&server, &id, "?path=deep", nested(63)).await;
    assert_eq!(deepest.status, 200, "{}", deepest.text);
    assert_eq!(get(&server, &id, "?path=deep").await.json["data"], nested(63));
}

#[tokio::test]
async fn json_that_no_value_can_hold_is_422() {
    let (server, id) = with_data(json!({ "a": 1 })).await;
    for body in [r#"{"n":1e400}"#, r#"{"n":-1e400}"#, r#"{"n":"\ud800"}"#] {
        for method in ["PUT", "PATCH"] {
            let request = call(&server, method, &id, "").raw("application/json", body.as_bytes());
            let reply = request.send().await;
            assert_eq!(
                (reply.status, reply.wrong_fields()),
                (422, vec!["body"]),
                "{method} {body}: {}",
                reply.text
            );
        }
    }
    assert_data(&server, &id, r#"{"a":1}"#, 1).await;
}

// What it survives

#[tokio::test]
async fn data_given_at_a_creation_and_patched_is_equal_after_a_restart() {
    let (server, id) = with_data(json!({ "z": { "b": 1, "a": [1, { "q": null }] }, "a": "é💥\u{0}" })).await;
    patch(&server, &id, "", json!({ "z": { "c": 0.1 }, "new": "" })).await;
    let before = get(&server, &id, "").await;
    assert_eq!(
        answered(&before),
        (
            r#"{"z":{"b":1,"a":[1,{"q":null}],"c":0.1},"a":"é💥\u0000","new":""}"#,
            2
        )
    );

    let server = server.stop().await.restart().await;

    let after = get(&server, &id, "").await;
    assert_eq!(after.text, before.text);
    assert_eq!(after.header("etag"), before.header("etag"));
    assert_eq!(
        patch(&server, &id, "", json!({})).await.json["data_version"],
        3,
        "it goes on counting"
    );
}

#[tokio::test]
async fn acknowledged_data_is_there_after_kill_9_and_never_in_the_log() {
    let dir = tempdir().expect("a directory");
    let start = || {
        let mut command = sessiond(
            dir.path(),
            ["serve", "--listen", "127.0.0.1:0", "--database", "s.db"],
        );
        Served::start({
            command.env("RUST_LOG", "trace");
            command
        })
    };
    let key = create_key(dir.path());
    let mut server = start();
    let body = json!({ "user_id": "ada", "data": { "at-creation-secret": { "n": 1 } } });
    let (id, _) = server.create(&key, body).await;
    let path = path_of(&id);
    let change = Some(json!({ "patched-secret": [true], "at-creation-secret": { "m": 2 } }));
    let (status, patched) = server.call(Method::PATCH, &path, &key, change).await;
    assert_eq!(status, 200, "{patched}");
    server.process.kill();
    drain(&mut server.process);
    let first_log = std::mem::take(&mut server.process.stderr.seen);

    let server = start();

    let (status, read) = server.get(&path, &key).await;
    assert_eq!((status, &read), (200, &patched));
    let second_log = server.stop().stderr;
    for log in [first_log, second_log] {
        assert!(log.contains("serving on http://"), "{log}");
        assert!(!log.contains("-secret"), "data is in the log");
    }
    let check = open_database(&dir.path().join("s.db"));
    let told: i64 = check
        .query_row(
            "SELECT count(*) FROM events WHERE data LIKE '%-secret%' OR device_info LIKE '%-secret%'",
            [],
            |row| row.get(0),
        )
        .expect("a number");
    assert_eq!(told, 0);
}

/// Reads what a process that is gone had said.
fn drain(process: &mut Process) {
    process.stdout.read_to_end();
    process.stderr.read_to_end();
}

#[tokio::test]
async fn data_of_an_ended_session_is_deleted_and_410() {
    let server = TestServer::start().await;
    let revoked = server
        .create(json!({ "user_id": "ada", "data": { "a": 1 } }))
        .await;
    let expired = server
        .create(json!({ "user_id": "ada", "data": { "a": 1 }, "idle_timeout_secs": 10 }))
        .await;
    let path = format!("/v1/sessions/{}?reason=manual", revoked.id);
    assert_eq!(server.delete(&path).key(&server.key).send().await.status, 204);
    server.advance(10);

    for (id, reason) in [(&revoked.id, "manual"), (&expired.id, "idle_timeout")] {
        for (method, query) in [
            ("GET", ""),
            ("GET", "?take=true"),
            ("PUT", ""),
            ("PATCH", "?path=a"),
            ("DELETE", ""),
        ] {
            let mut request = call(&server, method, id, query);
            if ["PUT", "PATCH"].contains(&method) {
                request = request.json(json!({}));
            }
            let reply = request.send().await;
            assert_eq!(reply.status, 410, "{method} {reason}: {}", reply.text);
            reply.assert_problem(410, "session_ended");
            assert_eq!(reply.json["revoked_reason"], reason, "{method}");
        }
    }
    server.tick().await;
    assert_eq!(count(&server, "SELECT count(*) FROM session_data"), 0);
}

#[tokio::test]
async fn data_stays_when_a_user_signs_in_with_the_session() {
    let server = TestServer::start().await;
    let visitor = server.create(json!({ "data": { "cart": [1, 2] } })).await;

    let path = format!("/v1/sessions/{}/authenticate", visitor.id);
    let body = json!({ "user_id": "ada" });
    let reply = server.post(&path, body).key(&server.key).send().await;

    assert_eq!(reply.status, 200, "{}", reply.text);
    assert_eq!(reply.json["session"]["data_version"], 1);
    assert_data(&server, &visitor.id, r#"{"cart":[1,2]}"#, 1).await;
}

// Taking

#[tokio::test]
async fn what_is_taken_is_answered_once_and_gone() {
    let (server, id) = with_data(json!({ "flash": "hello", "keep": 1 })).await;

    let first = get(&server, &id, "?path=flash&take=true").await;
    let second = get(&server, &id, "?path=flash&take=true").await;

    assert_eq!(answered(&first), (r#""hello""#, 2));
    assert_eq!(answered(&second), ("null", 2));
    assert_data(&server, &id, r#"{"keep":1}"#, 2).await;
    let all = get(&server, &id, "?take=true").await;
    assert_eq!(answered(&all), (r#"{"keep":1}"#, 3));
    assert_data(&server, &id, "{}", 3).await;
}

#[tokio::test]
async fn null_that_is_there_is_taken_too() {
    let (server, id) = with_data(json!({ "a": null })).await;
    assert_eq!(
        answered(&get(&server, &id, "?path=a&take=true").await),
        ("null", 2)
    );
    assert_data(&server, &id, "{}", 2).await;
}

/// What a connection sees of others' commits: another number after each.
fn commits(database: &rusqlite::Connection) -> i64 {
    database
        .query_row("PRAGMA data_version", [], |row| row.get(0))
        .expect("a number")
}

#[tokio::test]
async fn reading_taking_nothing_and_deleting_nothing_write_nothing() {
    let (server, id) = with_data(json!({ "a": { "b": 1 } })).await;
    let empty = server.sign_in("ada").await.id;
    // The time that is written with the next change would be another one.
    server.advance(600);
    let database = open_database(&server.database());
    let before = commits(&database);

    for (method, id, query) in [
        ("GET", &id, ""),
        ("GET", &id, "?path=a.b"),
        ("GET", &id, "?path=x"),
        ("GET", &id, "?take=false"),
        ("GET", &id, "?path=x&take=true"),
        ("GET", &empty, "?take=true"),
        ("DELETE", &id, "?path=a.x"),
        ("DELETE", &empty, ""),
    ] {
        let reply = call(&server, method, id, query).send().await;
        assert_eq!(reply.status, 200, "{method} {query}: {}", reply.text);
        assert_eq!(commits(&database), before, "{method} {query}");
    }

    let reply = get(&server, &id, "?path=a&take=true").await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    assert_ne!(commits(&database), before, "a change is seen");
}

#[tokio::test]
async fn calls_for_data_are_no_use_of_the_session() {
    let (server, id) = with_data(json!({ "a": 1 })).await;
    server.advance(DAY);

    get(&server, &id, "").await;
    patch(&server, &id, "", json!({ "b": 1 })).await;

    let path = format!("/v1/sessions/{id}");
    let session = server.get(&path).key(&server.key).send().await;
    assert_eq!(session.json["last_activity_at"], at(0));
}

#[tokio::test]
async fn session_that_lives_by_a_use_that_is_not_written_yet_has_its_data() {
    let server = TestServer::start().await;
    let body = json!({ "user_id": "ada", "data": { "a": 1 }, "idle_timeout_secs": 60 });
    let ada = server.create(body).await;
    server.advance(59);
    assert_eq!(server.check(&ada.token).await.status, 200);
    server.advance(59);

    assert_data(&server, &ada.id, r#"{"a":1}"#, 1).await;
    assert_eq!(patch(&server, &ada.id, "", json!({ "b": 2 })).await.status, 200);

    server.advance(1);
    get(&server, &ada.id, "")
        .await
        .assert_problem(410, "session_ended");
}

// Who sees it

#[tokio::test]
async fn data_of_unknown_sessions_and_other_apps_is_404_in_the_same_words() {
    let server = TestServer::start_with(|config| add_app(config, "shop")).await;
    let key = server.key_of("shop").await;
    let ada = server
        .create(json!({ "user_id": "ada", "data": { "a": 1 } }))
        .await;
    let before = dump(&server).await;
    for (method, query) in [
        ("GET", ""),
        ("GET", "?take=true"),
        ("PUT", ""),
        ("PATCH", "?path=a"),
        ("DELETE", ""),
    ] {
        let ask = async |id: &str, key: &str| {
            let path = format!("{}{query}", path_of(id));
            let method = Method::from_bytes(method.as_bytes()).expect("a method");
            let mut request = server.request(method, &path).key(key);
            if query != "?take=true" {
                request = request.json(json!({}));
            }
            let reply = request.send().await;
            reply.assert_problem(404, "not_found");
            reply.json["detail"].clone()
        };
        let foreign = ask(&ada.id, &key).await;
        assert_eq!(foreign, ask(UNKNOWN_ID, &key).await, "{method}");
        assert_eq!(foreign, ask("x", &key).await, "{method}");
    }
    assert_unchanged(&before, &dump(&server).await);
}

#[tokio::test]
async fn data_needs_an_api_key() {
    let server = TestServer::start().await;
    let ada = server
        .create(json!({ "user_id": "ada", "data": { "a": 1 } }))
        .await;
    let before = dump(&server).await;
    for method in [Method::GET, Method::PUT, Method::PATCH, Method::DELETE] {
        let request = || server.request(method.clone(), &path_of(&ada.id)).json(json!({}));
        let replies = [
            request().send().await,
            request().bearer(&ada.token).send().await,
            request().cookie(&ada.token).same_origin().send().await,
        ];
        for reply in replies {
            assert_eq!(reply.status, 401, "{method}: {}", reply.text);
            reply.assert_problem(401, "invalid_api_key");
        }
    }
    assert_unchanged(&before, &dump(&server).await);
}

#[tokio::test]
async fn holders_of_the_token_see_no_data_and_applications_its_version() {
    let server = TestServer::start().await;
    let ada = server
        .create(json!({ "user_id": "ada", "data": { "marker": 1 } }))
        .await;
    let checks = [
        server.check(&ada.token).await,
        server
            .post("/v1/sessions/check", json!({ "token": ada.token }))
            .key(&server.key)
            .send()
            .await,
        server
            .get(&format!("/v1/sessions/{}", ada.id))
            .key(&server.key)
            .send()
            .await,
        server.get("/v1/users/ada/sessions").key(&server.key).send().await,
        server
            .request(Method::POST, "/v1/session/renew")
            .bearer(&ada.token)
            .send()
            .await,
    ];
    for reply in &checks {
        assert_eq!(reply.status, 200, "{}", reply.text);
        assert!(reply.text.contains(r#""data_version":1"#), "{}", reply.text);
        assert!(!reply.text.contains("marker"), "{}", reply.text);
    }
    let path = format!("/v1/me/sessions/{}", ada.id);
    let own = [
        server.get("/v1/me/sessions").bearer(&ada.token).send().await,
        server
            .patch(&path, json!({ "name": "Desk" }))
            .bearer(&ada.token)
            .send()
            .await,
    ];
    for reply in &own {
        assert_eq!(reply.status, 200, "{}", reply.text);
        assert!(
            !reply.text.contains("data") && !reply.text.contains("marker"),
            "{}",
            reply.text
        );
    }
}

#[tokio::test]
async fn changed_data_shows_its_version_to_the_next_check() {
    let (server, id) = with_data(json!({})).await;
    let path = format!("/v1/sessions/{id}");
    let version = async || {
        let session = server.get(&path).key(&server.key).send().await;
        session.json["data_version"].as_u64()
    };
    assert_eq!(version().await, Some(1));
    put(&server, &id, "?path=a", json!(1)).await;
    assert_eq!(version().await, Some(2));
}

#[tokio::test]
async fn changes_of_data_are_no_events() {
    let (server, id) = with_data(json!({ "marker": 1 })).await;
    patch(&server, &id, "", json!({ "marker": 2 })).await;
    get(&server, &id, "?take=true").await;
    delete(&server, &id, "").await;

    let kinds: Vec<String> = events(&server.database())
        .into_iter()
        .map(|(kind, _)| kind)
        .collect();
    assert_eq!(kinds, ["session.created"]);
    assert_eq!(
        rows(&server, "SELECT data FROM events"),
        [json!({ "data": null })]
    );
}

// At once

#[tokio::test]
async fn parallel_patches_of_different_keys_all_survive() {
    let (server, id) = with_data(json!({})).await;

    let replies = at_once((0..100).map(|number| {
        call(&server, "PATCH", &id, "").json(json!({ format!("k{number}"): { "n": number } }))
    }))
    .await;

    assert_eq!(with_status(&replies, 200), 100);
    let mut versions: Vec<u64> = replies.iter().map(|reply| answered(reply).1).collect();
    versions.sort_unstable();
    assert_eq!(versions, (2..=101).collect::<Vec<u64>>(), "each made its own");
    let all = get(&server, &id, "").await;
    assert_eq!(all.json["data_version"], 101);
    assert_eq!(all.json["data"].as_object().map(serde_json::Map::len), Some(100));
    for number in 0..100 {
        assert_eq!(all.json["data"][format!("k{number}")], json!({ "n": number }));
    }
}

#[tokio::test]
async fn of_parallel_takes_one_gets_it() {
    for _ in 0..20 {
        let (server, id) = with_data(json!({ "flash": "hello" })).await;
        let takes = (0..20).map(|_| call(&server, "GET", &id, "?path=flash&take=true"));

        let replies = at_once(takes).await;

        let got: Vec<&str> = replies.iter().map(|reply| answered(reply).0).collect();
        let (with, without): (Vec<&str>, Vec<&str>) = got.into_iter().partition(|data| *data != "null");
        assert_eq!((with, without.len()), (vec![r#""hello""#], 19));
        assert_data(&server, &id, "{}", 2).await;
    }
}

#[tokio::test]
async fn of_parallel_writers_with_the_same_etag_one_wins() {
    let (server, id) = with_data(json!({ "winner": null })).await;
    for round in 1..=20 {
        let etag = format!("\"{round}\"");
        let writers = (0..20).map(|number| {
            call(&server, "PUT", &id, "?path=winner")
                .header("if-match", &etag)
                .json(json!(number))
        });

        let replies = at_once(writers).await;

        assert_eq!((with_status(&replies, 200), with_status(&replies, 412)), (1, 19));
        let winner = replies.iter().position(|reply| reply.status == 200);
        let expected = json!({ "winner": winner }).to_string();
        assert_data(&server, &id, &expected, round + 1).await;
    }
}

#[tokio::test]
async fn change_that_meets_the_ending_comes_before_it_or_not_at_all() {
    let server = TestServer::start().await;
    for round in 0..40 {
        let id = server
            .create(json!({ "user_id": "ada", "data": { "a": 1 } }))
            .await
            .id;
        let path = format!("/v1/sessions/{id}");
        let change = call(&server, "PATCH", &id, "").json(json!({ "b": 2 }));
        let revoke = server.delete(&path).key(&server.key);
        let pair = if round % 2 == 0 {
            [change, revoke]
        } else {
            [revoke, change]
        };

        let mut replies = at_once(pair).await;

        if round % 2 != 0 {
            replies.reverse();
        }
        let statuses = (replies[0].status, replies[1].status);
        assert!([(200, 204), (410, 204)].contains(&statuses), "{statuses:?}");
        get(&server, &id, "").await.assert_problem(410, "session_ended");
        let session = server.get(&path).key(&server.key).send().await;
        let expected = if replies[0].status == 200 { 2 } else { 1 };
        assert_eq!(
            (&session.json["status"], &session.json["data_version"]),
            (&json!("revoked"), &json!(expected))
        );
    }
    assert_eq!(count(&server, "SELECT count(*) FROM session_data"), 0);
}

#[tokio::test]
async fn keys_that_mean_something_to_the_parser_are_plain_keys() {
    let (server, id) = with_data(json!({ "n": 1 })).await;
    for key in ["$serde_json::private::RawValue", "$serde_json::private::Number"] {
        for value in [json!("junk"), json!("[1]")] {
            let body = json!({ "a": { key: value } });
            let expected = format!(r#"{{"a":{{"{key}":{value}}}}}"#);
            let written = put(&server, &id, "", body).await;
            assert_eq!(answered(&written).0, expected);
            assert_eq!(answered(&get(&server, &id, "").await).0, expected);
            let at_path = put(&server, &id, &format!("?path=b.{key}"), value).await;
            assert_eq!(at_path.status, 200, "{}", at_path.text);
            let patched = patch(&server, &id, "", json!({ "b": null })).await;
            assert_eq!(answered(&patched).0, expected);
        }
    }
}
