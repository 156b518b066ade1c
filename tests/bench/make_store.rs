//! Makes a store of many entries for the benchmark, with the store's own engine: `make_store ROOT URL COUNT FILE` publishes
//! FILE as the object of `URL/0.ism`, `URL/1.ism` and so on.

#![forbid(unsafe_code)]

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use mod_usp_storage_cache::store::fill::Landing;
use mod_usp_storage_cache::store::format::Meta;
use mod_usp_storage_cache::store::{Fill, Limits, Name, Store, now_ms};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [root, url, count, file] = arguments.as_slice() else { return Err("make_store ROOT URL COUNT FILE".into()) };
    let limits = Limits { store_len_max: u64::MAX, free_len_min: 0, generation: 0 };
    let store = Store::open(Path::new(root), limits).map_err(|e| e.to_string())?;
    let (count, body) = (count.parse::<u64>()?, std::fs::read(file)?);
    for number in 0..count {
        publish(&store, &format!("{url}/{number}.ism"), &body)?;
    }
    Ok(())
}

/// Publishes an entry without a scope.
fn publish(store: &Arc<Store>, url: &str, body: &[u8]) -> Result<(), Box<dyn Error>> {
    let name = Name::new(url, "");
    let lock = Arc::new(store.lock(&name)?.ok_or("somebody else has the key's lock")?);
    let fields = [("Content-Type", "text/plain"), ("ETag", "\"1\"")];
    let meta = Meta {
        url: url.into(),
        body_len: body.len() as u64,
        fetched_at_ms: now_ms(),
        purges: store.control().purge_mark(&name),
        fields: fields.map(|(name, value)| (name.into(), value.into())).into(),
        ..Meta::default()
    };
    let fill = Fill::begin(&lock, &meta)?;
    Landing::new(&fill, 0).write(body)?;
    fill.publish(now_ms())?;
    Ok(())
}
