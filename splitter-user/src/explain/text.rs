//! An explanation as text for people.

use std::fmt::{self, Display, Formatter};

use super::{Chosen, Explanation, How, Judged, PlanSeen, RouteTried};

impl Display for Explanation {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "dial {}", self.dialled)?;
        if self.plans.is_empty() {
            writeln!(f, "  no service has this frontend")?;
        } else {
            writeln!(f, "  generation {} is committed", self.generation)?;
        }
        for plan in &self.plans {
            writeln!(f, "  {plan}")?;
        }
        for route in &self.routes {
            writeln!(f, "  {route}")?;
        }
        for (what, chosen) in [("subset", &self.subset), ("backend", &self.backend)] {
            if let Some(chosen) = chosen {
                writeln!(f, "  {what} {chosen}")?;
            }
        }
        if let Some(judged) = &self.egress {
            writeln!(f, "  {judged}")?;
        }
        self.write_verdict(f)
    }
}

impl Explanation {
    fn write_verdict(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let reason = self.reason.as_ref();
        let reason = reason.map_or(String::new(), |reason| format!(" ({reason})"));
        match (self.verdict.as_ref(), &self.backend, &self.errno) {
            ("rewrite", Some(backend), _) => {
                let peer = self.getpeername.as_deref().unwrap_or("backend");
                writeln!(f, "rewrite to {}; getpeername answers the {peer}", backend.name)
            }
            ("reject", _, Some(errno)) => writeln!(f, "reject with {errno}{reason}"),
            ("refuse", _, Some(errno)) => writeln!(f, "refuse with {errno}"),
            _ if self.egress.as_ref().is_some_and(|it| it.verdict == "audited") => {
                writeln!(f, "leave it alone, and tell of it")
            }
            _ => writeln!(f, "leave it alone{reason}"),
        }
    }
}

impl Display for Judged {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Some(document) = &self.document else {
            return write!(f, "no egress document takes the client");
        };
        write!(f, "egress {document}: {}", self.verdict)?;
        match (self.by.as_deref(), &self.value) {
            (Some(by), Some(value)) => write!(f, " by `{by}: {value}`"),
            (Some(by), None) => write!(f, " by `{by}`"),
            (None, _) => Ok(()),
        }
    }
}

impl Display for PlanSeen {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { index, generation, .. } = self;
        if *generation == 0 {
            return write!(f, "no plan before it");
        }
        write!(f, "plan {index} of generation {generation}: ")?;
        match (&self.service, self.in_force) {
            (_, false) => write!(f, "not in force"),
            (Some(service), true) => write!(f, "service {service}"),
            (None, true) => write!(f, "the frontend is being removed"),
        }
    }
}

impl Display for RouteTried {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "route {}: ", self.name)?;
        match (self.taken, self.takes_all) {
            (true, true) => write!(f, "taken, it takes every client"),
            (true, false) => write!(f, "taken, the client fits"),
            (false, _) => write!(f, "no, {}", self.mismatches.join(", ")),
        }
    }
}

impl Display for Chosen {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.choice)
    }
}

impl Display for How {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Only => write!(f, "no other has a weight"),
            Self::Ticket { ticket, slot, slots } => {
                write!(f, "in turn, ticket {ticket} is slot {slot} of {slots}")
            }
            Self::Random { slot, slots } => {
                write!(f, "at random, this time slot {slot} of {slots}")
            }
            Self::Least { slots } => {
                write!(f, "of two of {slots} slots at random, the one with fewer live connections")
            }
            Self::SteppedOver { others } => {
                write!(f, "{others} whose turn it was may not be chosen now: down or ejected")
            }
            Self::Turned { from } => {
                write!(f, "in place of {from}, which takes no connection now")
            }
            Self::Client { key, client, slot, slots } => {
                write!(f, "by {key} {client}, which is slot {slot} of {slots}")
            }
            Self::Threshold { key, client, hash, threshold, asked } => write!(
                f,
                "by {key} {client}, whose hash {hash} is below {threshold} ({asked} asked)"
            ),
            Self::Broken => write!(f, "its records contradict each other"),
        }
    }
}
