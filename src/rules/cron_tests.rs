use proptest::prelude::*;

use super::*;

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
}

/// The instants of a day or two by the clock of the zone.
fn calendar(cron: &str, zone: &str, from: &str, to: &str) -> Vec<String> {
    let cron = Cron::parse(cron, zone).unwrap();
    let (from, to) = (at(from), at(to));
    let found = cron.fires(from, to, 1_000);
    found.iter().map(|t| t.with_timezone(&cron.zone).format("%d %H:%M %z").to_string()).collect()
}

#[test]
fn an_hour_that_does_not_exist_is_made_up_for_at_its_end_and_once() {
    // Berlin, 30 March 2025: after 01:59 comes 03:00. New York, 9 March 2025: after 01:59 comes 03:00.
    let berlin = calendar("30 2 * * *", "Europe/Berlin", "2025-03-29T00:00:00Z", "2025-03-31T12:00:00Z");
    assert_eq!(berlin, ["29 02:30 +0100", "30 03:00 +0200", "31 02:30 +0200"]);
    let york = calendar("15 2 * * *", "America/New_York", "2025-03-08T06:00:00Z", "2025-03-10T12:00:00Z");
    assert_eq!(york, ["08 02:15 -0500", "09 03:00 -0400", "10 02:15 -0400"]);
    // Lord Howe, 5 October 2025: half an hour is left out, after 01:59 comes 02:30.
    let howe = calendar("15 2 * * *", "Australia/Lord_Howe", "2025-10-03T12:00:00Z", "2025-10-06T12:00:00Z");
    assert_eq!(howe, ["04 02:15 +1030", "05 02:30 +1100", "06 02:15 +1100"]);
}

#[test]
fn a_fixed_time_in_an_hour_that_comes_twice_fires_once() {
    // Berlin, 26 October 2025: 02:00 to 02:59 come twice. New York, 2 November 2025: 01:00 to 01:59 do.
    let berlin = calendar("30 2 * * *", "Europe/Berlin", "2025-10-24T22:00:00Z", "2025-10-27T12:00:00Z");
    assert_eq!(berlin, ["25 02:30 +0200", "26 02:30 +0200", "27 02:30 +0100"]);
    let york = calendar("30 1 * * *", "America/New_York", "2025-11-01T04:00:00Z", "2025-11-03T12:00:00Z");
    assert_eq!(york, ["01 01:30 -0400", "02 01:30 -0400", "03 01:30 -0500"]);
    // Lord Howe, 6 April 2025: 01:30 to 01:59 come twice.
    let howe = calendar("45 1 * * *", "Australia/Lord_Howe", "2025-04-04T12:00:00Z", "2025-04-07T12:00:00Z");
    assert_eq!(howe, ["05 01:45 +1100", "06 01:45 +1100", "07 01:45 +1030"]);
}

#[test]
fn what_counts_real_time_goes_on_counting_it_when_the_clock_changes() {
    let spring = calendar("0 * * * *", "Europe/Berlin", "2025-03-29T23:30:00Z", "2025-03-30T03:30:00Z");
    assert_eq!(spring, ["30 01:00 +0100", "30 03:00 +0200", "30 04:00 +0200", "30 05:00 +0200"]);
    let autumn = calendar("0 * * * *", "Europe/Berlin", "2025-10-25T23:30:00Z", "2025-10-26T02:30:00Z");
    assert_eq!(autumn, ["26 02:00 +0200", "26 02:00 +0100", "26 03:00 +0100"]);
}

#[test]
fn elsewhere_real_time_is_counted_too_and_where_no_clock_changes_nothing_is_odd() {
    // Lord Howe, 5 October 2025: 02:00 does not come, and 03:00 comes half an hour after 02:30.
    let howe = calendar("*/30 * * * *", "Australia/Lord_Howe", "2025-10-04T14:15:00Z", "2025-10-04T16:45:00Z");
    assert_eq!(howe, ["05 01:00 +1030", "05 01:30 +1030", "05 02:30 +1100", "05 03:00 +1100", "05 03:30 +1100"]);
    // … and on 6 April 01:30 comes twice.
    let howe = calendar("*/30 * * * *", "Australia/Lord_Howe", "2025-04-05T13:45:00Z", "2025-04-05T15:45:00Z");
    assert_eq!(howe, ["06 01:00 +1100", "06 01:30 +1100", "06 01:30 +1030", "06 02:00 +1030"]);
    let york = calendar("0 * * * *", "America/New_York", "2025-11-02T04:30:00Z", "2025-11-02T07:30:00Z");
    assert_eq!(york, ["02 01:00 -0400", "02 01:00 -0500", "02 02:00 -0500"]);
    // Kolkata keeps its clock: each day of a year at its half hour.
    let kolkata = Cron::parse("30 2 * * *", "Asia/Kolkata").unwrap();
    let year = kolkata.fires(at("2025-01-01T00:00:00Z"), at("2026-01-01T00:00:00Z"), 1_000);
    assert_eq!((year.len(), year[0]), (365, at("2025-01-01T21:00:00Z")));
    assert!(year.windows(2).all(|days| days[1] - days[0] == TimeDelta::days(1)));
}

#[test]
fn the_known_calendar_of_a_year_is_kept() {
    let leap = calendar("0 12 29 2 *", "UTC", "2023-01-01T00:00:00Z", "2029-01-01T00:00:00Z");
    assert_eq!(leap.len(), 2, "29 February: 2024 and 2028");
    let days = Cron::parse("15 2 * * *", "Europe/Berlin").unwrap();
    let year = days.fires(at("2025-01-01T00:00:00Z"), at("2026-01-01T00:00:00Z"), 1_000);
    assert_eq!(year.len(), 365, "every day of the year, the two odd ones included");
    let weekdays = Cron::parse("0 9 * * 1-5", "America/New_York").unwrap();
    assert_eq!(weekdays.fires(at("2025-01-01T00:00:00Z"), at("2026-01-01T00:00:00Z"), 1_000).len(), 261);
}

#[test]
fn what_is_no_schedule_is_refused_with_the_reason() {
    assert_eq!(Cron::parse("* * * *", "UTC").unwrap_err(), CronError::Fields(4));
    assert_eq!(Cron::parse("0 0 * * * *", "UTC").unwrap_err(), CronError::Fields(6));
    assert_eq!(Cron::parse("0 0 30 2 *", "UTC").unwrap_err(), CronError::Never);
    assert!(matches!(Cron::parse("61 * * * *", "UTC"), Err(CronError::Field(_))));
    for empty in ["*/10 , * * *", "0 5,, * * *", "0 ,5 * * *"] {
        let Err(CronError::Field(why)) = Cron::parse(empty, "UTC") else { panic!("{empty} was read") };
        assert!(why.ends_with("is no hour (0 to 23)"), "{why}");
    }
    assert_eq!(Cron::parse("* * * * *", "Europe/Berln").unwrap_err(), CronError::Zone("Europe/Berln".into()));
    assert!(Cron::parse("@daily", "UTC").is_ok());
}

#[test]
fn what_was_missed_is_left_out_or_made_up_for_as_the_file_says() {
    let cron = Cron::parse("*/10 * * * *", "UTC").unwrap();
    let (seen, now) = (at("2025-01-01T00:05:00Z"), at("2025-01-01T00:35:00Z"));
    let minutes = |found: Vec<DateTime<Utc>>| found.iter().map(|t| t.format("%M").to_string()).collect::<Vec<_>>();
    assert!(minutes(cron.due(CatchUp::None, seen, now)).is_empty());
    assert_eq!(minutes(cron.due(CatchUp::Last, seen, now)), ["30"]);
    assert_eq!(minutes(cron.due(CatchUp::All, seen, now)), ["10", "20", "30"]);
    // A few seconds late is on time.
    assert_eq!(minutes(cron.due(CatchUp::None, seen, at("2025-01-01T00:30:04Z"))), ["30"]);
    let years = cron.due(CatchUp::All, at("2015-01-01T00:00:00Z"), now);
    assert_eq!((years.len(), years.last().copied()), (100, Some(at("2025-01-01T00:30:00Z"))));
}

fn any_cron() -> impl Strategy<Value = (String, &'static str)> {
    let minute = prop_oneof![Just("*".to_owned()), (0..60u8).prop_map(|m| m.to_string()), Just("*/7".to_owned())];
    let hour = prop_oneof![Just("*".to_owned()), (0..24u8).prop_map(|h| h.to_string()), Just("1-3".to_owned())];
    let zone =
        prop::sample::select(vec!["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"]);
    (minute, hour, zone).prop_map(|(m, h, zone)| (format!("{m} {h} * * *"), zone))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn however_a_time_is_cut_into_looks_each_instant_fires_once_and_in_order(
        (cron, zone) in any_cron(), start in 0i64..730, cuts in prop::collection::vec(1i64..400_000, 1..12)
    ) {
        let cron = Cron::parse(&cron, zone).unwrap();
        let from = at("2024-12-31T00:00:00Z") + TimeDelta::days(start);
        let (mut seen, mut fired) = (from, Vec::new());
        for cut in cuts {
            let now = seen + TimeDelta::seconds(cut);
            fired.extend(cron.fires(seen, now, usize::MAX));
            seen = now;
        }
        prop_assert!(fired.windows(2).all(|w| w[0] < w[1]), "in order, none twice");
        prop_assert_eq!(&fired, &cron.fires(from, seen, usize::MAX));
        let latest = cron.fires(from, seen, 3);
        prop_assert_eq!(&latest[..], &fired[fired.len().saturating_sub(3)..]);
    }
}

#[test]
fn ten_years_of_nights_have_one_instant_each_and_a_leap_day_comes_in_leap_years() {
    let (from, to) = ("2026-01-01T00:00:00Z", "2036-01-01T00:00:00Z");
    let days = 10 * 365 + 2;
    for zone in ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Sao_Paulo", "Asia/Kolkata"]
    {
        let cron = Cron::parse("30 2 * * *", zone).unwrap();
        let nights = cron.fires(at(from), at(to), 10_000);
        assert_eq!(nights.len(), days, "{zone}");
        let local: Vec<_> = nights.iter().map(|t| t.with_timezone(&cron.zone).date_naive()).collect();
        assert!(local.windows(2).all(|two| (two[1] - two[0]).num_days() == 1), "{zone}: each day once, in order");
        assert!(nights.windows(2).all(|two| two[0] < two[1]));
    }
    let leap = calendar_of_years("0 0 29 2 *", from, to);
    assert_eq!(leap, ["2028-02-29", "2032-02-29"]);
    assert_eq!(calendar_of_years("0 0 30 2 *", from, to), [""; 0]);
}

fn calendar_of_years(cron: &str, from: &str, to: &str) -> Vec<String> {
    let Ok(cron) = Cron::parse(cron, "UTC") else { return Vec::new() };
    cron.fires(at(from), at(to), 100).iter().map(|t| t.date_naive().to_string()).collect()
}
