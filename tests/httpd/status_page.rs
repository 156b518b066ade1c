//! The status page in a browser (headless Chromium): it fits three widths in both colour schemes, with scripts and without, and
//! shows the JSON's figures. `make soak` runs it; with `USC_SCREENSHOTS=directory` it leaves pictures there.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::content::{Random, content};
use crate::server::Httpd;
use crate::site::{Site, sub};
use crate::status::{STATUS, json};
use crate::storage::{Fault, Object, Whom};
use crate::wait::until;

/// Where the ring of minutes begins in the file of counters, the bytes of one, and how many there are (docs/store-format.md).
const RING: (u64, u64, u64) = (20480, 128, 1440);

/// A day's figures, as the leader would have written them.
fn write_a_day(httpd: &Httpd) {
    let counters = File::options().write(true).open(httpd.path("store/v1/counters")).expect("it is there");
    let now = json(httpd)["now_ms"].as_u64().expect("a time") / 60_000;
    let mut random = Random::new(87);
    for minute in now - RING.2 + 1..now {
        let load = 2000 + 1500 * (minute % 720).min(720 - minute % 720) / 360;
        let misses = random.below(60) as u64 + if minute % 480 < 20 { 1500 } else { 0 };
        let times =
            [900, 14_000, 42_000_000, 180_000_000].map(|time: u64| time + time * random.below(100) as u64 / 150);
        let row = [
            minute,
            load,
            misses,
            3,
            (load + misses) * 70_000,
            misses * 90_000,
            times[0],
            times[1],
            times[2],
            times[3],
        ];
        let bytes: Vec<u8> = row.iter().flat_map(|word| word.to_ne_bytes()).collect();
        counters.write_all_at(&bytes, RING.0 + minute % RING.2 * RING.1).expect("it can be written");
    }
}

/// A site on which all that is shown has happened.
fn busy_site() -> Site {
    let lines = "UspStorageCachePartSize 256K\nUspStorageCacheTimeout 60\nDocumentRoot \"@DIR@/htdocs\"";
    let site = Site::with(&format!("{STATUS}{lines}"));
    fs::copy(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/httpd/status_page.html"),
        site.httpd.path("htdocs/check.html"),
    )
    .expect("it can be copied");
    let long = "a-very-long-name-without-any-place-to-break-it".repeat(3);
    for (n, dir) in ["news", "it's&<b>co", "films/2026", "live/channel-1", &long].iter().enumerate() {
        for file in 0..=n {
            let path = format!("/{}/{file}/film.ism", dir.replace('<', "%3C").replace('>', "%3E"));
            site.fill(&path, Object::new(content(n as u64, 40_000 * (n + 1))));
            (0..20).for_each(|_| assert_eq!(site.get(&path).status, 200));
        }
    }
    assert_eq!(site.get("/absent.ism").status, 404);
    site.storage.put("/films/2026/large.mp4", Object::new(content(88, 3_000_000)));
    site.storage.fail_some("/films/2026/large.mp4", Whom::Everyone, 6.., Fault::Hold);
    assert_eq!(sub("/films/2026/large.mp4").range("bytes=0-99").run(&site.httpd).body().len(), 100);
    for path in ["/fails.ism", "/fails-too.ism", "/fails-again.ism"] {
        site.storage.put(path, Object::new("fails"));
        site.storage.fail(path, Whom::Fetches, Fault::Status(500));
        assert_eq!(site.get(path).status, 200);
    }
    until("a leader", 20, || json(&site.httpd)["processes"]["has_leader"].as_bool()?.then_some(()));
    write_a_day(&site.httpd);
    site
}

/// Runs the browser, in a profile of its own.
fn browser(site: &Site, scheme: u8, arguments: &[&str]) -> String {
    let mut command = Command::new("chromium");
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]);
    command.arg(format!("--user-data-dir={}", site.httpd.path(&format!("browser-{scheme}")).display()));
    command.arg(format!("--blink-settings=preferredColorScheme={scheme}")).args(arguments);
    let output = command.output().expect("chromium is installed: run tests/setup page first");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
#[ignore = "it wants chromium: `make soak` runs it"]
fn the_page_fits_and_shows_the_figures_in_both_colour_schemes() {
    let site = busy_site();
    let at = |path: &str| format!("http://127.0.0.1:{}{path}", site.httpd.port);
    let mut backs = Vec::new();
    for (scheme, name) in [(1, "light"), (0, "dark")] {
        let said = browser(&site, scheme, &["--virtual-time-budget=20000", "--dump-dom", &at("/check.html")]);
        let said = said.split_once("<pre id=\"said\">").and_then(|(_, rest)| rest.split_once("</pre>"));
        let said = said.map(|(said, _)| said.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"));
        let said: Value = serde_json::from_str(&said.unwrap_or_default()).expect("the page was looked at");
        assert_eq!(said["wrong"], Value::Array(Vec::new()), "{name}");
        assert!(said["fields"].as_u64() > Some(80), "{said}");
        let asked = said["requests"].as_array().expect("a list").iter().filter_map(Value::as_str);
        let elsewhere: Vec<_> = asked.filter(|url| !url.starts_with(&at("/usc-status"))).collect();
        assert!(elsewhere.is_empty(), "{elsewhere:?}");
        backs.push(said["back"].clone());
        if let Some(directory) = std::env::var_os("USC_SCREENSHOTS") {
            for (width, height) in [(360, 4200), (800, 3000), (1600, 1750)] {
                let picture = Path::new(&directory).join(format!("{name}-{width}.png"));
                let size = format!("--window-size={},{height}", width.max(500));
                browser(&site, scheme, &[&format!("--screenshot={}", picture.display()), &size, &at("/usc-status")]);
            }
        }
    }
    assert_ne!(backs[0], backs[1], "both schemes look the same");
}
