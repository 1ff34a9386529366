//! The classes of a class-conditional model: their labels and names.

use unfog_core::nn::graph::Projection;
use unfog_core::nn::model::unet2d::{ClassEmbedding, Config, TimeEmbedding};

use super::fields::Fields;
use crate::error::{Error, Result};

/// The labels that a network takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Labels {
    /// Labels below this one.
    limit: u32,
    /// Each is a row of a table of its own; otherwise any number may be one.
    table: bool,
    /// The one that stands for "no class", where the network says.
    null: Option<u32>,
}

impl Labels {
    /// Labels are handed on as f32, which holds whole numbers exactly up to here.
    const ANY: Self = Self { limit: 1 << 24, table: false, null: None };

    /// Rows of a table, of which one stands for "no class".
    pub(super) fn with_null(count: u32, null: u32) -> Self {
        Self { limit: count, table: true, null: Some(null) }
    }

    /// Those of a `UNet2DModel`.
    pub(super) fn of_config(config: &Config) -> Option<Self> {
        match (config.class_embedding, config.time_embedding) {
            (ClassEmbedding::None | ClassEmbedding::Identity, _) => None,
            (ClassEmbedding::Table { count }, _) => Some(Self { limit: count, table: true, null: None }),
            (ClassEmbedding::Timestep, TimeEmbedding::Learned { count }) => {
                Some(Self { limit: count, table: false, null: None })
            }
            (ClassEmbedding::Timestep, _) => Some(Self::ANY),
        }
    }

    /// Those of a network that is given them like this.
    pub(super) fn of_input(projection: Projection) -> Self {
        match projection {
            Projection::Index { count } => Self { limit: count, table: true, null: None },
            _ => Self::ANY,
        }
    }
}

/// The classes of a model, without the label that stands for "no class".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Classes {
    /// Labels below this one exist.
    limit: u32,
    /// The label that stands for "no class", which guidance needs.
    null: Option<u32>,
    /// Labels with their names, by label; without a name where model_index.json gives none.
    labels: Vec<(u32, Option<String>)>,
}

impl Classes {
    /// Reads the classes of a network that takes `labels`, with what model_index.json says of them (`id2label`, `null_class`).
    ///
    /// # Errors
    /// Labels that the network doesn't have, and names where there are no classes.
    pub(super) fn read(labels: Option<Labels>, index: Option<&Fields>) -> Result<Option<Self>> {
        let Some(Labels { limit, table, null: own }) = labels else { return Ok(None) };
        let null = match index {
            Some(index) => match index.optional_u32("null_class")? {
                Some(null) if null >= limit => {
                    return Err(index.refuse("null_class", &format!("a label below {limit}")));
                }
                null => null.or(own),
            },
            None => own,
        };
        let mut labels = match index {
            Some(index) => names(index, limit)?,
            None => Vec::new(),
        };
        if labels.is_empty() && table {
            labels = (0..limit).map(|label| (label, None)).collect();
        }
        labels.retain(|(label, _)| Some(*label) != null);
        Ok(Some(Self { limit, null, labels }))
    }

    /// The label that stands for "no class".
    pub fn null(&self) -> Option<u32> {
        self.null
    }

    /// What is said of a picture whose class isn't known: that it has none. `option` is what would say the class.
    ///
    /// # Errors
    /// A usage error where the network has no label for it.
    pub fn unknown(&self, option: &str) -> Result<u32> {
        self.null.ok_or_else(|| {
            Error::usage("the model has no label for \"no class\"")
                .hint(format!("say with {option} what the picture shows"))
        })
    }

    /// How many classes there are; 0 when the network takes any number and none is named.
    pub fn count(&self) -> usize {
        self.labels.len()
    }

    /// The labels with their names.
    pub fn iter(&self) -> impl Iterator<Item = (u32, Option<&str>)> {
        self.labels.iter().map(|(label, name)| (*label, name.as_deref()))
    }

    /// The class of image `i` when none is asked for: each in turn.
    pub fn of_image(&self, i: u64) -> Option<u32> {
        let count = self.labels.len() as u64;
        self.labels.get(i.checked_rem(count)? as usize).map(|(label, _)| *label)
    }

    /// The label that `text` means: a number, or a name in any case, or one of the names that a comma separates.
    ///
    /// # Errors
    /// A usage error when there is no such label or more than one.
    pub fn find(&self, text: &str) -> Result<u32> {
        if let Ok(label) = text.parse::<u64>() {
            return u32::try_from(label).ok().filter(|&label| label < self.limit).ok_or_else(|| {
                Error::usage(format!("there is no class {text}")).hint(format!("classes are 0 to {}", self.limit - 1))
            });
        }
        let wanted = text.trim().to_lowercase();
        let means = |name: &str| {
            let name = name.to_lowercase();
            name == wanted || name.split(',').any(|part| part.trim() == wanted)
        };
        let mut found = self.labels.iter().filter(|(_, name)| name.as_deref().is_some_and(means));
        match (found.next(), found.next()) {
            (Some((label, _)), None) => Ok(*label),
            (Some((a, _)), Some((b, _))) => {
                Err(Error::usage(format!("{text:?} names the classes {a} and {b}")).hint("give the number"))
            }
            (None, _) => Err(Error::usage(format!("there is no class {text:?}")).hint(self.known())),
        }
    }

    /// What may be asked for, in words.
    fn known(&self) -> String {
        let names: Vec<&str> = self.labels.iter().filter_map(|(_, name)| name.as_deref()).collect();
        match names.len() {
            0 => format!("classes have no names here, only numbers from 0 to {}", self.limit - 1),
            1..=20 => format!("classes are {}", names.join(", ")),
            n => format!("there are {n} names, from {} to {}", names[0], names[n - 1]),
        }
    }
}

fn names(index: &Fields, limit: u32) -> Result<Vec<(u32, Option<String>)>> {
    let expected = format!("an object of labels below {limit} and names");
    let Some(value) = index.value("id2label") else { return Ok(Vec::new()) };
    let map = value.as_object().ok_or_else(|| index.refuse("id2label", &expected))?;
    let mut names = Vec::with_capacity(map.len());
    for (label, name) in map {
        let label = label.parse().ok().filter(|&label: &u32| label < limit);
        match (label, name.as_str()) {
            (Some(label), Some(name)) => names.push((label, Some(name.to_owned()))),
            _ => return Err(index.refuse("id2label", &expected)),
        }
    }
    names.sort();
    names.dedup_by_key(|(label, _)| *label);
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classes() -> Classes {
        let index = br#"{"id2label": {"1": "crane, bird", "0": "Hand", "3": "crane"}, "null_class": 2}"#;
        let config = Config { class_embedding: ClassEmbedding::Table { count: 4 }, ..Config::default() };
        Classes::read(Labels::of_config(&config), Some(&Fields::parse("model_index.json", index).unwrap()))
            .unwrap()
            .unwrap()
    }

    #[test]
    fn names_and_numbers_are_found() {
        let classes = classes();
        assert_eq!(classes.find("hand").unwrap(), 0);
        assert_eq!(classes.find("bird").unwrap(), 1);
        assert_eq!(classes.find("2").unwrap(), 2);
        assert!(classes.find("crane").unwrap_err().to_string().contains("1 and 3"));
        assert_eq!(classes.find("4").unwrap_err().exit_code(), 2);
        assert!(classes.find("foot").is_err());
    }

    #[test]
    fn images_take_the_classes_in_turn_without_the_null_class() {
        let classes = classes();
        let turns: Vec<_> = (0..5).map(|i| classes.of_image(i).unwrap()).collect();
        assert_eq!(turns, [0, 1, 3, 0, 1]);
    }

    #[test]
    fn a_null_class_must_exist() {
        let config = Config { class_embedding: ClassEmbedding::Table { count: 4 }, ..Config::default() };
        let index = Fields::parse("model_index.json", br#"{"null_class": 4}"#).unwrap();
        assert!(Classes::read(Labels::of_config(&config), Some(&index)).is_err());
    }
}
