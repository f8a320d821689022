//! Stories of batches as agents send them: twice, late, too much.

use std::{sync::Arc, time::Duration};

use ez_protocol::{
    InstanceId, Month, NodeId, UnixMillis,
    message::{InstanceSamples, MetricsBatch, Sample, TrafficTotal},
};

use super::{KEPT, Point, Span, Taken, Traffic, jobs, points, take, traffic};
use crate::{
    app::App,
    clock::{Clock as _, ManualClock},
    db,
    fleet::{
        self,
        testing::{instance, locations, need, read, ready_node, services},
    },
};

/// A node with one server on it.
struct Story {
    app: App,
    clock: Arc<ManualClock>,
    node: NodeId,
    server: InstanceId,
}

impl Story {
    async fn begin(db: db::Db) -> Self {
        let (app, clock) = services(db);
        locations(&app, 10).await;
        let node = ready_node(&app, "fsn-1", 1_000, 5).await.id;
        let (at, entropy, server) = (clock.now(), app.entropy.clone(), instance(1));
        app.db
            .write(move |tx| {
                Box::pin(async move {
                    fleet::reserve(tx, at, entropy.as_ref(), node, server, &need(), None).await
                })
            })
            .await
            .unwrap();
        Self { app, clock, node, server }
    }

    fn minute(&self) -> u32 {
        u32::try_from(self.clock.now().0 / 60_000).unwrap()
    }

    /// A batch with these minutes of the server, and how busy it was.
    fn batch(&self, samples: &[(u32, u32)]) -> MetricsBatch {
        let samples = samples.iter().map(|(minute, cpu_permille)| Sample {
            minute: *minute,
            cpu_permille: *cpu_permille,
            memory_kib: 1_024,
            ..Sample::default()
        });
        let each = InstanceSamples { instance_id: self.server.to_string(), samples: samples.collect() };
        MetricsBatch { series: "a".repeat(32), batch: 1, instances: vec![each], ..MetricsBatch::default() }
    }

    fn total(&self, series: char, month: u32, bytes_in: u64, bytes_out: u64) -> MetricsBatch {
        let instance_id = self.server.to_string();
        MetricsBatch {
            series: series.to_string().repeat(32),
            traffic: vec![TrafficTotal { instance_id, month, bytes_in, bytes_out }],
            ..MetricsBatch::default()
        }
    }

    async fn take(&self, batch: MetricsBatch) -> Taken {
        take(&self.app.db, self.clock.now(), self.node, batch).await.unwrap()
    }

    async fn points_of(&self, subject: &str, span: Span) -> Vec<Point> {
        let now = self.clock.now();
        read(&self.app, async |c| points(c, subject, span, now).await).await
    }

    /// How busy the server was in each step of which something is known.
    async fn seen(&self, span: Span) -> Vec<(u32, u64)> {
        let all = self.points_of(&self.server.to_string(), span).await;
        let minute = |at: UnixMillis| u32::try_from(at.0 / 60_000).unwrap();
        all.iter().filter_map(|p| Some((minute(p.at), p.values?.cpu_permille))).collect()
    }

    async fn traffic(&self, month: u32) -> (u64, u64) {
        let (server, month) = (self.server, Month::from_number(month).unwrap());
        let Traffic { bytes_in, bytes_out, .. } =
            read(&self.app, async |c| traffic(c, server, month).await).await;
        (bytes_in, bytes_out)
    }

    async fn work(&self) {
        jobs::work(&self.app.db, self.clock.now()).await.unwrap();
    }
}

#[tokio::test]
async fn a_batch_may_come_twice_late_and_in_any_order() {
    db::testing::each_database(async |db| {
        let story = Story::begin(db).await;
        let now = story.minute();
        let newest = story.batch(&[(now - 1, 200), (now, 100)]);
        assert_eq!(story.take(newest.clone()).await, Taken { samples: 2, refused: 0 });
        story.take(story.batch(&[(now - 9, 300), (now - 30, 400)])).await;
        story.take(newest).await;
        // The same minute with other numbers: what is known stays.
        story.take(story.batch(&[(now, 999)])).await;
        let wanted = [(now - 30, 400), (now - 9, 300), (now - 1, 200), (now, 100)];
        assert_eq!(story.seen(Span::Hour).await, wanted);
    })
    .await;
}

#[tokio::test]
async fn an_agent_is_believed_no_further_than_it_reaches() {
    db::testing::each_database(async |db| {
        let story = Story::begin(db).await;
        let now = story.minute();
        let old = u32::try_from(KEPT.as_secs() / 60).unwrap();
        let reach = story.batch(&[(now - old, 1), (now - old + 1, 2), (now + 6, 3), (now + 5, 4)]);
        assert_eq!(story.take(reach).await, Taken { samples: 2, refused: 2 });
        let mut foreign = story.batch(&[(now, 5)]);
        foreign.instances[0].instance_id = instance(9).to_string();
        assert_eq!(story.take(foreign).await, Taken { samples: 0, refused: 1 });
        let subject = instance(9).to_string();
        assert!(story.points_of(&subject, Span::Hour).await.iter().all(|p| p.values.is_none()));
        // Nor does it count traffic for others, or for months that are long over or not there yet.
        let mut total = story.total('a', 202_611, 5, 5);
        total.traffic[0].instance_id = instance(9).to_string();
        assert_eq!(story.take(total).await.refused, 1);
        let this = Month::of(story.clock.now());
        for month in [this.before().before().number(), this.number() + 1] {
            assert_eq!(story.take(story.total('a', month, 5, 5)).await.refused, 1, "{month}");
        }
        assert_eq!(story.take(story.total('a', this.before().number(), 5, 5)).await.refused, 0);
    })
    .await;
}

#[tokio::test]
async fn totals_only_rise_and_series_add_up() {
    db::testing::each_database(async |db| {
        let story = Story::begin(db).await;
        let month = Month::of(story.clock.now()).number();
        story.take(story.total('a', month, 100, 10)).await;
        story.take(story.total('a', month, 300, 30)).await;
        // A batch that was held up, and the last one again.
        story.take(story.total('a', month, 200, 20)).await;
        story.take(story.total('a', month, 300, 30)).await;
        assert_eq!(story.traffic(month).await, (300, 30));
        // The agent was installed again and counts from nothing.
        story.take(story.total('b', month, 7, 1)).await;
        assert_eq!(story.traffic(month).await, (307, 31));
        story.take(story.total('b', month, u64::MAX, 1)).await;
        assert_eq!(story.traffic(month).await.0, 300 + i64::MAX.unsigned_abs());
    })
    .await;
}

#[tokio::test]
async fn minutes_become_averages_and_go_and_what_comes_late_is_averaged_again() {
    db::testing::each_database(async |db| {
        let story = Story::begin(db).await;
        // The beginning of an hour.
        let hour = story.minute() / 60 * 60;
        story.clock.set(UnixMillis(i64::from(hour + 59) * 60_000));
        let samples: Vec<_> = (hour..hour + 10).map(|minute| (minute, (minute - hour) * 10)).collect();
        story.take(story.batch(&samples)).await;
        // Averages are right before and after they are made.
        let step = hour / 30 * 30;
        assert_eq!(story.seen(Span::Week).await, [(step, 45)]);
        story.clock.advance(Duration::from_secs(120));
        story.work().await;
        assert_eq!(story.seen(Span::Week).await, [(step, 45)]);
        let late: Vec<_> = (hour + 10..hour + 15).map(|minute| (minute, 1_000)).collect();
        story.take(story.batch(&late)).await;
        // Two steps of five minutes, and a third one.
        assert_eq!(story.seen(Span::Week).await, [(step, (20 + 70 + 1_000) / 3)]);
        story.work().await;
        story.work().await;
        assert_eq!(story.seen(Span::Week).await, [(step, (20 + 70 + 1_000) / 3)]);
        // After two days the minutes are gone, and the averages are there.
        story.clock.advance(KEPT);
        story.work().await;
        let day = read(&story.app, async |c| {
            let subject = story.server.to_string();
            super::store::slots(c, &subject, super::model::MINUTE, 0, i64::MAX / 2).await
        });
        assert!(day.await.is_empty());
        assert_eq!(story.seen(Span::Week).await, [(step, (20 + 70 + 1_000) / 3)]);
        // After fourteen days there is an hour, and after thirteen months nothing.
        let slots = async |minutes| {
            let subject = story.server.to_string();
            read(&story.app, async |c| super::store::slots(c, &subject, minutes, 0, i64::MAX / 2).await).await
        };
        story.clock.advance(Duration::from_secs(14 * 86_400));
        story.work().await;
        assert!(slots(super::model::FIVE).await.is_empty());
        let hours = slots(super::model::HOUR).await;
        assert_eq!(
            hours.iter().map(|(m, v)| (*m, v.cpu_permille)).collect::<Vec<_>>(),
            [(i64::from(hour), 363)]
        );
        story.clock.advance(Duration::from_secs(430 * 86_400));
        story.work().await;
        assert!(slots(super::model::HOUR).await.is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_host_is_seen_under_its_own_name() {
    let (db, _dir) = db::testing::sqlite().await;
    let story = Story::begin(db).await;
    let host = Sample { minute: story.minute(), cpu_permille: 77, memory_kib: 2_048, ..Sample::default() };
    let batch = MetricsBatch { host: vec![host], ..story.batch(&[]) };
    assert_eq!(story.take(batch).await, Taken { samples: 1, refused: 0 });
    let now = story.clock.now();
    let charts = read(&story.app, async |c| super::node_graphs(c, story.node, 4_096, now).await).await;
    assert_eq!(
        charts.iter().map(|c| (c.code, c.lines[0].now)).collect::<Vec<_>>(),
        [("host-cpu", Some(77)), ("host-memory", Some(2 << 20)),]
    );
}
