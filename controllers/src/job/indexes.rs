//! Sets of indexes, as the status of a job writes them: `0,2-4,7`.

use std::collections::BTreeSet;

/// Reads a set; what cannot be read is not in it.
pub(super) fn parse(text: &str, below: i32) -> BTreeSet<i32> {
    let ranges = text.split(',').filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some((first.parse::<i32>().ok()?, last.parse::<i32>().ok()?))
    });
    // Indexes that the job no longer has do not count.
    ranges.flat_map(|(first, last)| first..=last.min(below - 1)).collect()
}

/// Writes a set.
pub(super) fn format(indexes: &BTreeSet<i32>) -> String {
    let mut ranges: Vec<(i32, i32)> = Vec::new();
    for index in indexes {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *index => *last = *index,
            _ => ranges.push((*index, *index)),
        }
    }
    let texts: Vec<String> = ranges
        .into_iter()
        .map(|(first, last)| match last - first {
            0 => first.to_string(),
            1 => format!("{first},{last}"),
            _ => format!("{first}-{last}"),
        })
        .collect();
    texts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        for text in ["", "0", "0,1", "0-2", "0,2-4,7", "1,3,5"] {
            assert_eq!(format(&parse(text, 10)), text);
        }
        assert_eq!(format(&parse("0-9", 3)), "0-2");
    }
}
