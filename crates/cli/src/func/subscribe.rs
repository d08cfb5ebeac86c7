//! `func subscribe`: func.yaml learns which events the function wants; `deploy` makes the Triggers.

use std::io::Write;

use anyhow::Context;
use dormouse_build::function::Subscription;

use super::args::Subscribe;
use super::{initialized, say, variable};
use crate::show::failure;

pub(super) fn run(args: &Subscribe, _out: &mut dyn Write) -> anyhow::Result<()> {
    let mut function = initialized(&args.place.path, "subscribe")?;
    let mut filters = Vec::new();
    for filter in &args.filter {
        let (name, value) =
            filter.split_once('=').with_context(|| format!("--filter {filter}: expected NAME=VALUE"))?;
        filters.push((name.to_owned(), value.to_owned()));
    }
    let all = &mut function.spec.deploy.subscriptions;
    match all.iter_mut().find(|subscription| subscription.source == args.source) {
        Some(known) => known.filters.extend(filters),
        None => all.push(Subscription {
            source: args.source.clone(),
            filters: filters.into_iter().collect(),
            ..Subscription::default()
        }),
    }
    function.write(&variable).map_err(failure)?;
    say("Subscribed; deploy the function to get the events: dormouse func deploy");
    Ok(())
}
