//! New weights for a split of a service. Pure.

use splitter_common::abi::MAX_SPLIT;

use crate::policy::model::{Action, Route, Service, Split};
use crate::policy::suggest;

/// Subsets and weights, by name.
pub(super) type Named = Vec<(String, u32)>;

/// A service with other weights.
#[derive(Debug)]
pub(super) struct Reweighted {
    pub(super) service: Service,
    /// Name of the route.
    pub(super) route: String,
    pub(super) before: Named,
    pub(super) after: Named,
}

/// Sets weights by subset name; subsets that are not named keep theirs. Fails with a sentence.
pub(super) fn reweigh(
    service: &Service,
    route: Option<&str>,
    weights: &[(String, u32)],
) -> Result<Reweighted, String> {
    let mut service = service.clone();
    let index = find_route(&service, route)?;
    let name = service.routes[index].name.clone();
    let Some(split) = split_of(&service.routes[index]) else {
        return Err(format!("the route `{name}` of `{}` does not split", service.name));
    };
    let before = named(&service, split);
    let mut changed = split.clone();
    for (subset, weight) in weights {
        set_weight(&service, &mut changed, subset, *weight)?;
    }
    check_sum(&changed, &name)?;
    let after = named(&service, &changed);
    service.routes[index].action = Action::Split(changed);
    Ok(Reweighted { service, route: name, before, after })
}

fn split_of(route: &Route) -> Option<&Split> {
    match &route.action {
        Action::Split(split) => Some(split),
        Action::Reject(_) | Action::Pass => None,
    }
}

/// The named route; else the only one that splits; else the last of those for every client.
fn find_route(service: &Service, route: Option<&str>) -> Result<usize, String> {
    let routes = &service.routes;
    let name = &service.name;
    if let Some(wanted) = route {
        let known: Vec<&str> = routes.iter().map(|route| route.name.as_str()).collect();
        return routes.iter().position(|route| route.name == wanted).ok_or_else(|| {
            let help = suggest(wanted, &known, "its routes");
            format!("`{name}` has no route `{wanted}`: {help}")
        });
    }
    main_split(service).ok_or_else(|| {
        format!("which split of `{name}`? name its route: splitter weight {name}/ROUTE ...")
    })
}

/// The split that is meant where no route is named.
pub(in crate::daemon) fn main_split(service: &Service) -> Option<usize> {
    let routes = || service.routes.iter().enumerate().filter(|(_, r)| split_of(r).is_some());
    let mut all = routes();
    match (all.next(), all.next()) {
        (Some((only, _)), None) => Some(only),
        _ => routes().rfind(|(_, r)| r.matches.is_empty()).map(|(index, _)| index),
    }
}

/// Subsets of a split with their weights.
pub(in crate::daemon) fn named(service: &Service, split: &Split) -> Named {
    let name = |ordinal: usize| service.subsets.get(ordinal).map(|subset| subset.name.clone());
    split.weights.iter().filter_map(|(ordinal, weight)| Some((name(*ordinal)?, *weight))).collect()
}

fn set_weight(
    service: &Service,
    split: &mut Split,
    subset: &str,
    weight: u32,
) -> Result<(), String> {
    let ordinal = find_subset(service, subset)?;
    if let Some((_, old)) = split.weights.iter_mut().find(|(known, _)| *known == ordinal) {
        *old = weight;
        return Ok(());
    }
    if split.weights.len() >= MAX_SPLIT as usize {
        return Err(format!(
            "the split names {MAX_SPLIT} subsets already, which is the most; `{subset}` is not one \
             of them"
        ));
    }
    split.weights.push((ordinal, weight));
    Ok(())
}

fn check_sum(split: &Split, route: &str) -> Result<(), String> {
    let sum: u64 = split.weights.iter().map(|(_, weight)| u64::from(*weight)).sum();
    match sum {
        0 => Err(format!(
            "every weight of the route `{route}` would be 0: give at least one subset a weight"
        )),
        sum if sum > u64::from(u32::MAX) => Err(format!(
            "the weights of the route `{route}` would sum to {sum}; the most is {}",
            u32::MAX
        )),
        _ => Ok(()),
    }
}

/// Takes the weight of a subset in every route, where the route has another subset with weight.
/// Answers what it was, by route, or why it cannot be in a sentence.
pub(super) fn take_weight(service: &Service, subset: &str) -> Result<(Service, Named), String> {
    let ordinal = find_subset(service, subset)?;
    let mut service = service.clone();
    let (name, mut taken) = (service.name.clone(), Named::new());
    for route in &mut service.routes {
        let Action::Split(split) = &mut route.action else { continue };
        let others = split.weights.iter().any(|(other, n)| *other != ordinal && *n > 0);
        let own = split.weights.iter_mut().find(|(own, weight)| *own == ordinal && *weight > 0);
        let Some((_, weight)) = own else { continue };
        if !others {
            return Err(format!(
                "the route `{route}` of `{name}` has no other subset with weight than `{subset}`: \
                 give another one a weight first, with `splitter weight {name}/{route} \
                 SUBSET=WEIGHT`",
                route = route.name
            ));
        }
        taken.push((route.name.clone(), std::mem::take(weight)));
    }
    Ok((service, taken))
}

/// Gives a subset the weights back that were taken, in routes that still split and where it has
/// none. Fails with a sentence.
pub(super) fn give_weight(
    service: &Service,
    subset: &str,
    taken: &[(String, u32)],
) -> Result<Service, String> {
    let ordinal = find_subset(service, subset)?;
    let mut service = service.clone();
    for route in &mut service.routes {
        let Action::Split(split) = &mut route.action else { continue };
        let was = taken.iter().find(|(name, _)| *name == route.name).map(|(_, weight)| *weight);
        let own = split.weights.iter_mut().find(|(own, weight)| *own == ordinal && *weight == 0);
        if let (Some((_, weight)), Some(was)) = (own, was) {
            *weight = was;
        }
        check_sum(split, &route.name)?;
    }
    Ok(service)
}

/// Ordinal of a subset by its name.
pub(super) fn find_subset(service: &Service, subset: &str) -> Result<usize, String> {
    let known: Vec<&str> = service.subsets.iter().map(|subset| subset.name.as_str()).collect();
    known.iter().position(|name| *name == subset).ok_or_else(|| {
        let help = suggest(subset, &known, "its subsets");
        format!("`{}` has no subset `{subset}`: {help}", service.name)
    })
}

/// How two services differ in weights: routes with their weights before and after.
pub(super) fn changed_weights(old: &Service, new: &Service) -> Vec<(String, Named, Named)> {
    let splits = old.routes.iter().zip(&new.routes);
    let splits = splits.filter_map(|(old, new)| Some((new, split_of(old)?, split_of(new)?)));
    let changed = splits.filter(|(_, old, new)| old != new);
    changed.map(|(route, was, is)| (route.name.clone(), named(old, was), named(new, is))).collect()
}
