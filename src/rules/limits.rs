//! What the programs of one step may use, and when it is too much.

use std::fmt::Write as _;

/// Something of which a step's programs may use only so much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Bytes in memory of all of them together.
    Memory,
    /// Milliseconds of processor time of all of them together.
    Cpu,
    /// How many of them there may be at one time.
    Processes,
    /// Bytes of the largest file that one of them may write.
    FileSize,
    /// Descriptors that one of them may have open.
    OpenFiles,
}

impl Resource {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Memory, Self::Cpu, Self::Processes, Self::FileSize, Self::OpenFiles];

    /// The resource that a file calls so.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|r| r.name() == name)
    }

    /// As files write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Processes => "processes",
            Self::FileSize => "file_size",
            Self::OpenFiles => "open_files",
        }
    }

    /// Reads a limit: `512MiB` of memory and files, `30s` of processor time, a number of the rest.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn read(self, text: &str) -> Result<u64, String> {
        let (units, most, form): (&[(&str, u64)], u64, &str) = match self {
            Self::Memory | Self::FileSize => (&BYTES, 1 << 50, "a whole number of KiB, MiB or GiB, such as 512MiB"),
            Self::Cpu => (&TIMES, 366 * 86_400_000, "a whole number and a unit, such as 30s, 5m or 2h"),
            Self::Processes | Self::OpenFiles => (&[("", 1)], 1 << 20, "a whole number, such as 64"),
        };
        let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let unit = units.iter().find(|(name, _)| *name == &text[at..]).map(|(_, unit)| *unit);
        let count = text[..at].parse::<u64>().ok();
        let value = count.zip(unit).and_then(|(count, unit)| count.checked_mul(unit));
        match value.filter(|value| (self.least()..=most).contains(value)) {
            Some(value) => Ok(value),
            None => Err(format!(
                "`{text}` is no limit of {}: write {form} (from {} to {})",
                self.words(),
                self.shown(self.least()),
                self.shown(most)
            )),
        }
    }

    /// With less no program starts.
    fn least(self) -> u64 {
        match self {
            Self::Memory => 1 << 20,
            Self::Cpu => 1_000,
            Self::Processes => 1,
            Self::FileSize => 1 << 10,
            Self::OpenFiles => 8,
        }
    }

    /// For people: `512 MiB`, `30 s`, `64`.
    #[must_use]
    pub fn shown(self, value: u64) -> String {
        let units: &[(&str, u64)] = match self {
            Self::Memory | Self::FileSize => &BYTES,
            Self::Cpu => &[("s", 1_000), ("ms", 1)],
            Self::Processes | Self::OpenFiles => return value.to_string(),
        };
        let (name, unit) = units.iter().find(|(_, unit)| value >= *unit).unwrap_or(&("", 1));
        let (whole, tenth) = (value / unit, value % unit * 10 / unit);
        let mut text = whole.to_string();
        if tenth > 0 {
            // Writing to a string cannot fail.
            let _ = write!(text, ".{tenth}");
        }
        format!("{text} {name}").trim_end().to_owned()
    }

    /// What it is, in a sentence.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "processor time",
            Self::Processes => "processes at one time",
            Self::FileSize => "bytes in one file",
            Self::OpenFiles => "open files",
        }
    }
}

const BYTES: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
const TIMES: [(&str, u64); 3] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000)];

/// As much as may be used of each; what has none may be used as the machine allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits([Option<u64>; 5]);

impl Limits {
    /// The limit of a resource.
    #[must_use]
    pub fn of(&self, resource: Resource) -> Option<u64> {
        self.0[resource as usize]
    }

    /// Sets one.
    #[must_use]
    pub fn with(mut self, resource: Resource, limit: u64) -> Self {
        self.0[resource as usize] = Some(limit);
        self
    }

    /// These, and those of a wider circle where there are none here.
    ///
    /// # Errors
    /// The resource, of which the wider circle allows less.
    pub fn within(self, outer: Self) -> Result<Self, Resource> {
        let mut all = outer;
        for resource in Resource::ALL {
            match (self.of(resource), outer.of(resource)) {
                (Some(inner), Some(outer)) if inner > outer => return Err(resource),
                (Some(inner), _) => all = all.with(resource, inner),
                (None, _) => {}
            }
        }
        Ok(all)
    }

    /// What is used too much of, if anything.
    #[must_use]
    pub fn exceeded(&self, used: &[(Resource, u64)]) -> Option<(Resource, u64)> {
        used.iter().copied().find(|(resource, used)| self.of(*resource).is_some_and(|limit| *used > limit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_with_their_units_and_shown_with_them() {
        for (resource, text, value, shown) in [
            (Resource::Memory, "512MiB", 512 << 20, "512 MiB"),
            (Resource::FileSize, "1536KiB", 1536 << 10, "1.5 MiB"),
            (Resource::Cpu, "90s", 90_000, "90 s"),
            (Resource::Cpu, "2h", 7_200_000, "7200 s"),
            (Resource::Processes, "64", 64, "64"),
        ] {
            assert_eq!(resource.read(text), Ok(value), "{text}");
            assert_eq!(resource.shown(value), shown);
        }
    }

    #[test]
    fn what_is_no_limit_is_told_with_the_form_and_the_bounds() {
        for text in ["", "1", "1KB", "0MiB", "-1MiB", "512 MiB", "99999999999GiB", "1mib", "99999999999999999999MiB"] {
            assert!(Resource::Memory.read(text).is_err(), "{text}");
        }
        let told = Resource::Cpu.read("500ms").unwrap_err();
        assert_eq!(
            told,
            "`500ms` is no limit of processor time: write a whole number and a unit, such as 30s, 5m or 2h (from 1 s to 31622400 s)"
        );
        assert!(Resource::OpenFiles.read("3").is_err() && Resource::Processes.read("0").is_err());
    }

    #[test]
    fn a_step_may_have_less_than_the_configuration_allows_and_not_more() {
        let outer = Limits::default().with(Resource::Memory, 100).with(Resource::Processes, 10);
        let inner = Limits::default().with(Resource::Memory, 50).with(Resource::Cpu, 7);
        let both = inner.within(outer).unwrap();
        let of = |r| both.of(r);
        assert_eq!((of(Resource::Memory), of(Resource::Processes), of(Resource::Cpu)), (Some(50), Some(10), Some(7)));
        assert_eq!(Limits::default().with(Resource::Memory, 101).within(outer), Err(Resource::Memory));
        assert_eq!(
            both.exceeded(&[(Resource::Memory, 50), (Resource::Processes, 11)]),
            Some((Resource::Processes, 11))
        );
        assert_eq!(both.exceeded(&[(Resource::FileSize, u64::MAX)]), None);
    }
}
