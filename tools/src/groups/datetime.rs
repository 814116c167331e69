//! ISO 8601 date and time to milliseconds since the epoch.

/// `2026-01-31T12:30[:00[.000]][Z|+01:00|+0100|+01]`; UTC without a zone, as in Kafka's tools.
pub fn parse_ms(text: &str) -> Result<i64, String> {
    parse(text).ok_or_else(|| {
        format!("`{text}` is no date and time such as 2026-01-31T12:30:00.000 or 2026-01-31T12:30:00+01:00")
    })
}

fn parse(text: &str) -> Option<i64> {
    let (date, rest) = text.split_once('T')?;
    let (year, month, day) = three(date, '-', [4, 2, 2])?;
    let zone_at = rest.find(['Z', '+', '-']).unwrap_or(rest.len());
    let (time, zone) = rest.split_at(zone_at);
    let (time, fraction) = match time.split_once('.') {
        // A fraction is one of seconds.
        Some((time, _)) if time.len() < 8 => return None,
        Some((time, fraction)) => (time, fraction_ms(fraction)?),
        None => (time, 0),
    };
    let (hour, minute, second) = match time.len() {
        5 => three(&format!("{time}:00"), ':', [2, 2, 2])?,
        _ => three(time, ':', [2, 2, 2])?,
    };
    if !(1..=12).contains(&month) || day < 1 || day > days_of(year, month) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let days = days_since_epoch(year, month, day);
    let minutes = (days * 24 + hour) * 60 + minute - zone_minutes(zone)?;
    Some((minutes * 60 + second) * 1000 + fraction)
}

/// Three numbers of so many digits each.
fn three(text: &str, separator: char, digits: [usize; 3]) -> Option<(i64, i64, i64)> {
    let mut parts = text.split(separator);
    let mut next = |digits| number(parts.next()?, digits);
    let numbers = (next(digits[0])?, next(digits[1])?, next(digits[2])?);
    parts.next().is_none().then_some(numbers)
}

fn number(text: &str, digits: usize) -> Option<i64> {
    let plain = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

fn fraction_ms(text: &str) -> Option<i64> {
    number(text, text.len()).filter(|_| (1..=9).contains(&text.len()))?;
    number(&format!("{text:0<3}")[..3], 3)
}

fn zone_minutes(zone: &str) -> Option<i64> {
    let sign = match zone.chars().next() {
        None => return Some(0),
        Some('Z') => return (zone.len() == 1).then_some(0),
        Some('-') => -1,
        _ => 1,
    };
    let digits = zone[1..].replacen(':', "", usize::from(zone.len() == 6));
    let (hours, minutes) = match digits.len() {
        2 => (number(&digits, 2)?, 0),
        4 => (number(digits.get(..2)?, 2)?, number(digits.get(2..)?, 2)?),
        _ => return None,
    };
    (hours <= 18 && minutes <= 59).then_some(sign * (hours * 60 + minutes))
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_of(year: i64, month: i64) -> i64 {
    match month {
        2 => 28 + i64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// In the proleptic Gregorian calendar, for years from 0 on.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    // Years that begin in March have their leap day at the end.
    let year = if month <= 2 { year - 1 } else { year };
    let month = (month + 9) % 12;
    let leaps = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    let days_before_month = (153 * month + 2) / 5;
    /// From 0000-03-01 to 1970-01-01.
    const EPOCH_DAYS: i64 = 719_468;
    year * 365 + leaps + days_before_month + day - 1 - EPOCH_DAYS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        // From `date -u -d ... +%s%3N`.
        for (text, ms) in [
            ("1970-01-01T00:00:00.000", 0),
            ("1970-01-01T00:00", 0),
            ("1969-12-31T23:59:59.999Z", -1),
            ("2000-02-29T12:30:15.5", 951_827_415_500),
            ("2024-02-29T00:00:00Z", 1_709_164_800_000),
            ("2026-01-31T12:30:00.123456+01:00", 1_769_859_000_123),
            ("2026-01-31T12:30:00-0530", 1_769_882_400_000),
            ("2026-01-31T12:30+02", 1_769_855_400_000),
            ("2100-03-01T00:00:00", 4_107_542_400_000),
            ("1900-03-01T00:00:00", -2_203_891_200_000),
        ] {
            assert_eq!(parse_ms(text), Ok(ms), "{text}");
        }
    }

    #[test]
    fn what_is_no_date_is_refused() {
        for text in [
            "",
            "T",
            "2026-01-31",
            "2026-01-31 12:30:00",
            "2026-13-01T00:00:00",
            "2026-02-29T00:00:00",
            "1900-02-29T00:00:00",
            "2026-00-10T00:00:00",
            "2026-01-00T00:00:00",
            "2026-01-31T24:00:00",
            "2026-01-31T12:60:00",
            "2026-01-31T12:30:60",
            "2026-01-31T12:30:00.",
            "2026-01-31T12:30:00.1234567890",
            "2026-01-31T12:30.5",
            "2026-01-31T12",
            "26-01-31T12:30:00",
            "2026-1-31T12:30:00",
            "2026-01-31T12:30:00+1",
            "2026-01-31T12:30:00+19:00",
            "2026-01-31T12:30:00Zulu",
            "2026-01-31T12:30:00+é1",
            "+026-01-31T12:30:00",
            "2026-01-31T12:30:0\u{0660}",
        ] {
            assert!(parse_ms(text).is_err(), "{text}");
        }
    }
}
