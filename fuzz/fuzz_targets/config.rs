#![no_main]

#[path = "../properties.rs"]
#[allow(dead_code)]
mod properties;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let file = std::env::temp_dir().join(format!("sessiond-fuzz-{}.toml", std::process::id()));
    properties::config(input, &file);
});
