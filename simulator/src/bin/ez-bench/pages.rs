//! Portal pages of somebody who is logged in, at a steady rate and as fast as they come.
//!
//! The server's own time comes from its `/metrics`: the time from the router's first layer to the finished
//! answer, counted in buckets. What visitors see, the way there and back included, stands beside it.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};

use crate::{
    Options,
    demo::Demo,
    load::{self, Make},
    process,
    report::{Report, Row},
};

/// Pages a second.
const RATE: u32 = 200;
const VISITORS: u32 = 16;
const WARM_UP: Duration = Duration::from_secs(3);

/// Asks for the pages people look at most: list of servers, one server, one order, the form for a new one, and
/// the operator's fleet.
pub(crate) async fn run(
    options: &Options,
    demo: &Demo,
    server: &str,
    order: &str,
    report: &mut Report,
) -> anyhow::Result<()> {
    crate::say("Asking for pages …");
    let to = SocketAddr::from(([127, 0, 0, 1], demo.port("portal")?));
    let customer = log_in(demo, "customer").await?;
    let operator = log_in(demo, "operator").await?;
    let pages = [
        ("/servers".to_owned(), &customer),
        (format!("/servers/{server}"), &customer),
        (format!("/orders/{order}"), &customer),
        ("/servers/new".to_owned(), &customer),
        ("/operator/fleet".to_owned(), &operator),
    ];
    let requests: Vec<Vec<u8>> = pages
        .iter()
        .map(|(path, cookie)| {
            format!("GET {path} HTTP/1.1\r\nHost: {to}\r\nAccept: text/html\r\nCookie: {cookie}\r\n\r\n")
                .into_bytes()
        })
        .collect();
    let make: Make = Arc::new(move |n| requests[usize::try_from(n).unwrap_or(0) % requests.len()].clone());
    let pid = demo.pid("/pids/control_plane")?;
    let lasts = options.seconds();

    let warm = load::open(to, VISITORS, RATE, Duration::ZERO, WARM_UP, make.clone()).await?;
    let (before, cpu) = (Buckets::read(demo).await?, process::cpu_seconds(pid)?);
    let mut steady = load::open(to, VISITORS, RATE, Duration::ZERO, lasts, make.clone()).await?;
    let server_time = Buckets::read(demo).await?.since(&before);
    let cpu = (process::cpu_seconds(pid)? - cpu) / lasts.as_secs_f64() * 100.0;
    if warm.refused + steady.refused > 0 {
        bail!("{} pages were not answered 200", warm.refused + steady.refused);
    }
    let how = format!(
        "server time of {:.0} pages at {RATE}/s from its own histogram, read within a bucket; {:.3} % took longer than 5 ms",
        server_time.count(),
        server_time.above(0.005) * 100.0
    );
    report.add(Row::at_most("page_p99_ms", server_time.quantile(0.99) * 1e3, "ms", 5.0, how));
    let how = format!("answered 200 of {RATE}/s asked for, five pages in turn, {cpu:.0} % of a core");
    // Within one request of what was asked for.
    let asked = f64::from(RATE) - 1.0 / lasts.as_secs_f64();
    report.add(Row::at_least("page_rate", steady.rate(), "/s", asked, how));
    report.add(Row::seen(
        "page_client_p50_ms",
        steady.times.ms(0.5),
        "ms",
        "from when a page was due to its last byte",
    ));
    report.add(Row::seen("page_client_p99_ms", steady.times.ms(0.99), "ms", "the same"));

    let fast = load::closed(to, VISITORS.into(), WARM_UP, lasts / 2, make).await?;
    if fast.refused > 0 {
        bail!("{} pages were not answered 200", fast.refused);
    }
    report.add(Row::seen(
        "page_rate_most",
        fast.rate(),
        "/s",
        "16 visitors, each asks as soon as it is answered",
    ));
    Ok(())
}

/// Logs in as a browser would; the cookie.
async fn log_in(demo: &Demo, who: &str) -> anyhow::Result<String> {
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build()?;
    let form = [
        ("email", demo.text(&format!("/{who}/email"))?),
        ("password", demo.text(&format!("/{who}/password"))?),
    ];
    let request = client.post(format!("{}/login", demo.text("/portal_url")?)).form(&form);
    let answer = request.header("sec-fetch-site", "same-origin").send().await?;
    let cookies = answer.headers().get_all("set-cookie").iter().filter_map(|value| value.to_str().ok());
    let pairs: Vec<&str> = cookies.filter_map(|cookie| cookie.split(';').next()).collect();
    if answer.status() != 303 || pairs.is_empty() {
        bail!("the login of the {who} was answered {}", answer.status());
    }
    Ok(pairs.join("; "))
}

/// The histogram of pages: how many took at most so long, by the bound in microseconds.
#[derive(Debug, Default, PartialEq)]
struct Buckets(BTreeMap<u64, f64>);

impl Buckets {
    async fn read(demo: &Demo) -> anyhow::Result<Self> {
        // Its listener is asked by its address, as a scraper on the machine would.
        let url = format!("http://127.0.0.1:{}/metrics", demo.port("portal")?);
        Self::parse(&reqwest::get(url).await?.text().await?)
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let mut buckets = BTreeMap::new();
        for line in text.lines().filter(|line| line.starts_with("ez_http_request_seconds_bucket{")) {
            let label = |name: &str| {
                let (_, rest) = line.split_once(&format!("{name}=\""))?;
                rest.split('"').next()
            };
            let route = label("route").unwrap_or_default();
            let is_page =
                ["/servers", "/orders/", "/operator/fleet"].iter().any(|begin| route.starts_with(begin));
            if !is_page || label("method") != Some("GET") {
                continue;
            }
            let bound = match label("le").context("a bucket without a bound")? {
                "+Inf" => u64::MAX,
                seconds => (seconds.parse::<f64>()? * 1e6).round() as u64,
            };
            let count: f64 = line.rsplit(' ').next().unwrap_or_default().parse()?;
            *buckets.entry(bound).or_insert(0.0) += count;
        }
        Ok(Self(buckets))
    }

    fn since(&self, before: &Self) -> Self {
        let of = |bound: &u64| before.0.get(bound).copied().unwrap_or(0.0);
        Self(self.0.iter().map(|(bound, count)| (*bound, count - of(bound))).collect())
    }

    fn count(&self) -> f64 {
        self.0.get(&u64::MAX).copied().unwrap_or(0.0)
    }

    /// The share that took longer than a bound in seconds, which must be one of the buckets'.
    fn above(&self, seconds: f64) -> f64 {
        let within = self.0.get(&((seconds * 1e6).round() as u64)).copied().unwrap_or(0.0);
        1.0 - within / self.count().max(1.0)
    }

    /// Seconds that this share does not exceed; spread evenly within its bucket.
    fn quantile(&self, share: f64) -> f64 {
        let wanted = share * self.count();
        let (mut low, mut below) = (0.0, 0.0);
        for (bound, count) in &self.0 {
            let high = if *bound == u64::MAX { 60.0 } else { *bound as f64 / 1e6 };
            if *count >= wanted {
                let part = if *count > below { (wanted - below) / (count - below) } else { 0.0 };
                return low + (high - low) * part;
            }
            (low, below) = (high, *count);
        }
        low
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(counts: [u32; 4]) -> String {
        let line = |route: &str, le: &str, count: u32| {
            format!(
                "ez_http_request_seconds_bucket{{method=\"GET\",route=\"{route}\",status=\"200\",le=\"{le}\"}} {count}\n"
            )
        };
        ["0.001", "0.0025", "0.005", "+Inf"]
            .iter()
            .zip(counts)
            .map(|(le, count)| {
                line("/servers/{id}", le, count) + &line("/readyz", le, 9) + &line("/orders/{id}", le, count)
            })
            .collect()
    }

    #[test]
    fn the_servers_own_time_is_read_from_its_buckets() {
        let before = Buckets::parse(&text([5, 5, 5, 5])).unwrap();
        let after = Buckets::parse(&text([50, 95, 104, 105])).unwrap();
        let seen = after.since(&before);
        assert_eq!(seen.count(), 200.0, "other routes are no pages");
        assert!((seen.above(0.005) - 0.01).abs() < 1e-9);
        assert!((seen.quantile(0.45) - 0.001).abs() < 1e-9);
        let p95 = seen.quantile(0.945);
        assert!((0.0025..0.005).contains(&p95), "{p95}");
    }
}
