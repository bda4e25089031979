//! `underpin features`: what a controller is set to, by name and number.
use crate::args::{DEVICE_URLS, device_url};
use crate::failure::Failure;
use crate::identify::rows::hexadecimal;
use crate::number::number;
use crate::output::Answer;
use crate::{device, text};
use serde_json::{Map, Value, json};
use std::fmt::Write;
use std::path::PathBuf;
use underpin::nvme::{FeatureRequest, FeatureValue, SetFeature};
use underpin::spec::admin::{FeatureAbility, FeatureId, FeatureSelect, QueueCounts};
use underpin::{Controller, DeviceUrl, Error, Nsid};

#[derive(Debug, clap::Args)]
pub(crate) struct FeaturesArgs {
    /// The device; with ?ns=N the value that namespace has of its own
    #[arg(
        value_name = "URL",
        value_parser = device_url,
        long_help = format!(
            "The device; with ?ns=N the value that namespace has of its own\n\n{DEVICE_URLS}"
        )
    )]
    url: DeviceUrl,
    /// Read or change one feature; without it, all that the controller has are read
    #[arg(requires = "feature")]
    action: Option<Action>,
    /// Which feature: its number, or its name with dashes, such as volatile-write-cache
    #[arg(value_name = "FEATURE", value_parser = feature_id)]
    feature: Option<FeatureId>,
    /// The new value: dword 11 of the command; given again, dwords 12 to 15
    #[arg(
        long = "value",
        value_name = "N",
        value_parser = number::<u32>,
        num_args = 1,
        requires = "action"
    )]
    values: Vec<u32>,
    /// The bytes of the new value, where it has some: a file, or - for standard input
    #[arg(long, value_name = "FILE", requires = "action")]
    data: Option<PathBuf>,
    /// Make the new value outlive resets and power cycles
    #[arg(long, requires = "action")]
    save: bool,
    /// Which value to read
    #[arg(long, value_name = "WHICH", default_value = "current")]
    select: Select,
    /// Dword 11 when reading, where the feature wants one
    #[arg(long, value_name = "N", value_parser = number::<u32>, default_value = "0")]
    cdw11: u32,
    /// How many bytes to read beside the number, where that is not known
    #[arg(long = "data-len", value_name = "BYTES", value_parser = number::<usize>)]
    data_len_bytes: Option<usize>,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Action {
    /// Read one
    Get,
    /// Change one
    Set,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Select {
    /// The value in use
    Current,
    /// The value that it was made with
    Default,
    /// The value that it has after a reset
    Saved,
    /// What can be done with the feature
    Supported,
}

impl Select {
    const fn on_the_wire(self) -> FeatureSelect {
        match self {
            Self::Current => FeatureSelect::CURRENT,
            Self::Default => FeatureSelect::DEFAULT,
            Self::Saved => FeatureSelect::SAVED,
            Self::Supported => FeatureSelect::SUPPORTED,
        }
    }
}

/// A feature's name as it is written on a command line.
fn dashed(id: FeatureId) -> String {
    let name = id.to_string().to_ascii_lowercase();
    let words: Vec<_> = name
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
        .collect();
    words.join("-")
}

/// Every feature that the specification names, in order.
fn known() -> impl Iterator<Item = FeatureId> {
    (1..=u8::MAX)
        .map(FeatureId)
        .filter(|id| id.name().is_some())
}

fn feature_id(text: &str) -> Result<FeatureId, String> {
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        return number(text).map(FeatureId);
    }
    let wanted = text.to_ascii_lowercase();
    known().find(|&id| dashed(id) == wanted).ok_or_else(|| {
        let names: Vec<_> = known().map(dashed).collect();
        format!("no feature has that name; there are {}", names.join(", "))
    })
}

pub(crate) fn run(args: &FeaturesArgs) -> Result<(), Failure> {
    let Some(id) = args.feature else {
        return device::answer(&args.url, |controller| all(args, controller));
    };
    match args.action {
        Some(Action::Set) => set(args, id),
        _ => get(args, id),
    }
}

/// Refuses a namespace that is not there: a device that has the feature once for all of them may
/// answer for it just the same.
fn namespace_is_there(args: &FeaturesArgs, controller: &Controller) -> Result<(), Error> {
    match args.url.nsid {
        Some(nsid) => controller.namespace(Some(nsid)).map(drop),
        None => Ok(()),
    }
}

fn request(args: &FeaturesArgs, id: FeatureId) -> FeatureRequest {
    let request = FeatureRequest::new(id);
    FeatureRequest {
        select: args.select.on_the_wire(),
        nsid: args.url.nsid.unwrap_or(Nsid(0)),
        cdw11: args.cdw11,
        data_len_bytes: args.data_len_bytes.unwrap_or(request.data_len_bytes),
        ..request
    }
}

/// All that the controller has: one that it lacks ends with an error status, and is left out.
fn all(args: &FeaturesArgs, controller: &Controller) -> Result<Answer, Error> {
    namespace_is_there(args, controller)?;
    let mut rows = Vec::new();
    let mut list = Vec::new();
    for id in known() {
        let value = match controller.feature(&request(args, id)) {
            Ok(value) => value,
            Err(Error::Admin { .. } | Error::NotSupported { .. }) => continue,
            Err(error) => return Err(error),
        };
        rows.push(vec![
            format!("{:#04x}", id.0),
            dashed(id),
            format!("{:#010x}", value.dword),
            meaning(id, args.select, &value),
        ]);
        list.push(Value::Object(as_json(id, args.select, &value)));
    }
    Ok(if args.json {
        Answer::Json(json!({ "url": args.url.to_string(), "features": list }))
    } else {
        Answer::Text(text::columns("", &rows))
    })
}

fn get(args: &FeaturesArgs, id: FeatureId) -> Result<(), Failure> {
    if !args.values.is_empty() || args.data.is_some() || args.save {
        return Err(Failure::usage(
            "--value, --data and --save change a feature",
            "say set instead of get, or leave them out",
        ));
    }
    device::answer(&args.url, |controller| {
        namespace_is_there(args, controller)?;
        let value = controller.feature(&request(args, id))?;
        if args.json {
            let mut object = Map::from_iter([("url".to_owned(), json!(args.url.to_string()))]);
            object.extend(as_json(id, args.select, &value));
            return Ok(Answer::Json(object.into()));
        }
        let mut text = format!("{id} ({:#04x}): {:#010x}", id.0, value.dword);
        let meaning = meaning(id, args.select, &value);
        if !meaning.is_empty() {
            let _ = write!(text, ", {meaning}");
        }
        text.push('\n');
        text.push_str(&text::dump(&value.data));
        Ok(Answer::Text(text))
    })
}

fn set(args: &FeaturesArgs, id: FeatureId) -> Result<(), Failure> {
    let data = args
        .data
        .as_deref()
        .map(crate::passthru::read_file)
        .transpose()?;
    if args.values.is_empty() && data.is_none() {
        return Err(Failure::usage(
            "the new value is not said",
            "add --value N, or --data FILE where the feature has bytes",
        ));
    }
    if args.values.len() > 5 {
        return Err(Failure::usage(
            format!("--value is given {} times", args.values.len()),
            "a feature has five dwords at most: 11 to 15",
        ));
    }
    let mut values = args.values.iter().copied();
    let feature = SetFeature {
        nsid: args.url.nsid.unwrap_or(Nsid(0)),
        save: args.save,
        data: data.unwrap_or_default(),
        more: [0; 4],
        ..SetFeature::new(id, values.next().unwrap_or(0))
    };
    let more = std::array::from_fn(|_| values.next().unwrap_or(0));
    let feature = SetFeature { more, ..feature };
    device::answer(&args.url, |controller| {
        namespace_is_there(args, controller)?;
        let dword = controller.set_feature(&feature)?;
        Ok(if args.json {
            Answer::Json(json!({
                "url": args.url.to_string(),
                "feature": id.0,
                "name": id.to_string(),
                "set": args.values,
                "saved": args.save,
                "dword": dword,
            }))
        } else {
            Answer::Text(format!(
                "{id} ({:#04x}) is set; the answer is {dword:#010x}\n",
                id.0
            ))
        })
    })
}

fn as_json(id: FeatureId, select: Select, value: &FeatureValue) -> Map<String, Value> {
    let meaning = meaning(id, select, value);
    let fields = [
        ("feature", json!(id.0)),
        ("name", json!(id.to_string())),
        ("value", json!(value.dword)),
        ("meaning", json!((!meaning.is_empty()).then_some(meaning))),
        (
            "data",
            json!((!value.data.is_empty()).then(|| hexadecimal(value.data.iter()))),
        ),
    ];
    fields
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// A value in words, where it is simple (NVMe Base 2.0, 5.27.1).
fn meaning(id: FeatureId, select: Select, value: &FeatureValue) -> String {
    let dword = value.dword;
    if select == Select::Supported {
        let ability = FeatureAbility::from_dword(dword);
        let words = [
            (ability.changeable, "changeable"),
            (ability.saveable, "saveable"),
            (ability.per_namespace, "of each namespace"),
        ];
        let words: Vec<_> = words
            .iter()
            .filter(|(is, _)| *is)
            .map(|(_, word)| *word)
            .collect();
        return words.join(", ");
    }
    match id {
        FeatureId::VOLATILE_WRITE_CACHE => match dword & 1 {
            0 => "off".to_owned(),
            _ => "on".to_owned(),
        },
        FeatureId::NUMBER_OF_QUEUES => {
            let counts = QueueCounts::from_cdw(dword);
            format!(
                "{} submission, {} completion queues",
                counts.submission, counts.completion
            )
        }
        FeatureId::TEMPERATURE_THRESHOLD => {
            format!("{} degrees Celsius", i64::from(dword & 0xffff) - 273)
        }
        FeatureId::POWER_MANAGEMENT => format!("power state {}", dword & 0x1f),
        FeatureId::TIMESTAMP => {
            let bytes = value.data.get(..6).unwrap_or_default();
            let ms = bytes
                .iter()
                .rev()
                .fold(0_u64, |ms, &byte| ms << 8 | u64::from(byte));
            format!("{ms} ms")
        }
        FeatureId::WRITE_PROTECTION => match dword & 0b111 {
            0 => "not protected".to_owned(),
            _ => "protected".to_owned(),
        },
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Every feature of the specification can be named, each by a name of its own, and by number.
    #[test]
    fn features_have_names_and_numbers() {
        let mut names = std::collections::HashSet::new();
        for id in known() {
            assert_eq!(feature_id(&dashed(id)), Ok(id));
            assert!(names.insert(dashed(id)), "{id}");
        }
        assert!(names.len() > 20 && names.contains("volatile-write-cache"));
        assert_eq!(feature_id("0xc0"), Ok(FeatureId(0xc0)));
        assert_eq!(
            feature_id("Host-Identifier"),
            Ok(FeatureId::HOST_IDENTIFIER)
        );
        assert!(
            feature_id("cache")
                .unwrap_err()
                .contains("volatile-write-cache")
        );
        assert!(feature_id("256").unwrap_err().contains("8 bits"));
    }
}
