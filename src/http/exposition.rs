//! One scrape's answer: families of metrics with the values of this instant, in Prometheus' text format.

use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};
use prometheus::{Encoder, TextEncoder};

use crate::model::buckets::Buckets;

/// The text format, version 0.0.4.
pub(super) const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// Labels: name and value. Values come from closed enums, or from names of apps, clusters, backends
/// and load balancers.
pub(super) type Labels<'a> = &'a [(&'a str, &'a str)];

/// The families of one scrape. A family without any series is left out.
#[derive(Default)]
pub(super) struct Exposition {
    families: Vec<MetricFamily>,
}

/// One metric, to be filled.
pub(super) struct Family(MetricFamily, Vec<Metric>);

impl Exposition {
    /// A metric that goes up and down.
    pub fn gauges(&mut self, name: &str, help: &str, fill: impl FnOnce(&mut Family)) {
        self.family(name, help, MetricType::GAUGE, fill);
    }

    /// A metric that only grows, but for restarts.
    pub fn counters(&mut self, name: &str, help: &str, fill: impl FnOnce(&mut Family)) {
        self.family(name, help, MetricType::COUNTER, fill);
    }

    /// Durations.
    pub fn histograms(&mut self, name: &str, help: &str, fill: impl FnOnce(&mut Family)) {
        self.family(name, help, MetricType::HISTOGRAM, fill);
    }

    /// A gauge without labels.
    pub fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.gauges(name, help, |family| family.gauge(&[], value));
    }

    /// A counter without labels.
    pub fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.counters(name, help, |family| family.counter(&[], value));
    }

    fn family(&mut self, name: &str, help: &str, kind: MetricType, fill: impl FnOnce(&mut Family)) {
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        let mut family = Family(family, Vec::new());
        fill(&mut family);
        let Family(mut family, metrics) = family;
        if !metrics.is_empty() {
            family.set_metric(metrics);
            self.families.push(family);
        }
    }

    /// All of it, as text.
    ///
    /// # Errors
    /// The metrics library's, if a name or label cannot be used; a fault of this program.
    pub fn text(self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.families, &mut text)?;
        Ok(text)
    }
}

impl Family {
    pub fn gauge(&mut self, labels: Labels<'_>, value: f64) {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        self.add(labels, |metric| metric.set_gauge(gauge));
    }

    #[allow(clippy::cast_precision_loss)] // nothing here is counted up to 2^52
    pub fn count(&mut self, labels: Labels<'_>, value: usize) {
        self.gauge(labels, value as f64);
    }

    #[allow(clippy::cast_precision_loss)] // nothing here is counted up to 2^52
    pub fn counter(&mut self, labels: Labels<'_>, value: u64) {
        let mut counter = Counter::default();
        counter.set_value(value as f64);
        self.add(labels, |metric| metric.set_counter(counter));
    }

    pub fn histogram(&mut self, labels: Labels<'_>, buckets: &Buckets) {
        let mut histogram = Histogram::default();
        histogram.set_sample_count(buckets.count());
        histogram.set_sample_sum(buckets.sum());
        let bucket = |(bound, count)| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(bound);
            bucket.set_cumulative_count(count);
            bucket
        };
        histogram.set_bucket(buckets.cumulative().map(bucket).collect());
        self.add(labels, |metric| metric.set_histogram(histogram));
    }

    fn add(&mut self, labels: Labels<'_>, set: impl FnOnce(&mut Metric)) {
        let pair = |(name, value): &(&str, &str)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        };
        let mut metric = Metric::from_label(labels.iter().map(pair).collect());
        set(&mut metric);
        self.1.push(metric);
    }
}
