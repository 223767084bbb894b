//! SUBSCRIBE and UNSUBSCRIBE (3.8, 3.10), and their answers SUBACK and UNSUBACK (3.9, 3.11).

use super::primitives::{Reader, insert_length, put_u16};
use super::properties::{Allowed, Property, PropertyReader, id, put_string_property};
use super::topic::validate_filter;
use super::{DecodeError, Frame, QoS, ReasonCode, Version};

/// Which retained messages a subscription asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RetainHandling {
    /// All that match; the only way before 5.0.
    Send = 0,
    /// Only if the subscription is new.
    SendIfNew = 1,
    /// None.
    DoNotSend = 2,
}

/// One filter of a SUBSCRIBE with its options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscription<'a> {
    /// A valid topic filter, `$share/` included.
    pub filter: &'a str,
    /// The most to be delivered at.
    pub qos: QoS,
    /// Not what this client published itself.
    pub no_local: bool,
    /// Keep the RETAIN flag as it was published.
    pub retain_as_published: bool,
    /// Retained messages on subscribing.
    pub retain_handling: RetainHandling,
}

impl<'a> Subscription<'a> {
    fn read(reader: &mut Reader<'a>, version: Version) -> Result<Subscription<'a>, DecodeError> {
        let filter = reader.string()?;
        validate_filter(filter)?;
        let options = reader.u8()?;
        let reserved = if version == Version::V5 { 0xC0 } else { 0xFC };
        if options & reserved != 0 {
            return Err(DecodeError::SubscriptionOptionsReserved(options));
        }
        let bad_options = DecodeError::SubscriptionOptions(options);
        let subscription = Subscription {
            filter,
            qos: QoS::from_bits(options & 3).ok_or(bad_options)?,
            no_local: options & 0x04 != 0,
            retain_as_published: options & 0x08 != 0,
            retain_handling: match options >> 4 {
                0 => RetainHandling::Send,
                1 => RetainHandling::SendIfNew,
                2 => RetainHandling::DoNotSend,
                _ => return Err(bad_options),
            },
        };
        if subscription.no_local && filter.starts_with("$share/") {
            return Err(DecodeError::NoLocalOnShared);
        }
        Ok(subscription)
    }
}

/// SUBSCRIBE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscribe<'a> {
    /// Not 0.
    pub packet_id: u16,
    /// 1 to 268,435,455.
    pub subscription_id: Option<u32>,
    /// At least one.
    pub subscriptions: Subscriptions<'a>,
}

/// What a SUBSCRIBE asks for, in its order; validated, and read off the packet on every pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscriptions<'a> {
    version: Version,
    rest: &'a [u8],
}

impl<'a> Iterator for Subscriptions<'a> {
    type Item = Subscription<'a>;

    fn next(&mut self) -> Option<Subscription<'a>> {
        let mut reader = Reader::new(self.rest);
        // Validated before: it fails only at the end.
        let subscription = Subscription::read(&mut reader, self.version).ok()?;
        self.rest = reader.rest();
        Some(subscription)
    }
}

impl<'a> Subscribe<'a> {
    pub(super) fn decode(frame: &Frame<'a>, version: Version) -> Result<Subscribe<'a>, DecodeError> {
        frame.check_dup(version)?;
        let mut reader = Reader::new(frame.body);
        let packet_id = reader.packet_id()?;
        let mut subscription_id = None;
        if version == Version::V5 {
            let mut properties = PropertyReader::new(reader.properties()?, Allowed::SUBSCRIBE);
            while let Some(property) = properties.read()? {
                if let Property::SubscriptionId(id) = property {
                    subscription_id = Some(id);
                }
            }
        }
        let subscriptions = Subscriptions { version, rest: reader.rest() };
        if reader.is_empty() {
            return Err(DecodeError::NoFilters);
        }
        while !reader.is_empty() {
            Subscription::read(&mut reader, version)?;
        }
        Ok(Subscribe { packet_id, subscription_id, subscriptions })
    }
}

/// UNSUBSCRIBE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsubscribe<'a> {
    /// Not 0.
    pub packet_id: u16,
    /// At least one.
    pub filters: Filters<'a>,
}

/// The filters of an UNSUBSCRIBE, in its order; validated, and read off the packet on every pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filters<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Filters<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let mut reader = Reader::new(self.rest);
        // Validated before: it fails only at the end.
        let filter = reader.string().ok()?;
        self.rest = reader.rest();
        Some(filter)
    }
}

impl<'a> Unsubscribe<'a> {
    pub(super) fn decode(frame: &Frame<'a>, version: Version) -> Result<Unsubscribe<'a>, DecodeError> {
        frame.check_dup(version)?;
        let mut reader = Reader::new(frame.body);
        let packet_id = reader.packet_id()?;
        if version == Version::V5 {
            PropertyReader::new(reader.properties()?, Allowed::UNSUBSCRIBE).skip_all()?;
        }
        let filters = Filters { rest: reader.rest() };
        if reader.is_empty() {
            return Err(DecodeError::NoFilters);
        }
        while !reader.is_empty() {
            validate_filter(reader.string()?)?;
        }
        Ok(Unsubscribe { packet_id, filters })
    }
}

/// Appends a SUBACK: one reason per filter, in their order. In 3.1.1 every failure is 0x80; in 3.1, which has none
/// and wants a positive answer, it is QoS 0. (Mosquitto says the QoS that was asked for.)
pub fn encode_suback(
    out: &mut Vec<u8>,
    version: Version,
    packet_id: u16,
    reasons: impl IntoIterator<Item = ReasonCode>,
) {
    out.push(0x90);
    let body_at = out.len();
    put_u16(out, packet_id);
    if version == Version::V5 {
        out.push(0);
    }
    out.extend(reasons.into_iter().map(|reason| match version {
        Version::V3_1 if reason.is_error() => 0,
        Version::V3_1_1 if reason.is_error() => 0x80,
        _ => reason.as_u8(),
    }));
    insert_length(out, body_at);
}

/// The same with a reason string, for 5.0 alone: at most 65,535 bytes, and not for clients that asked for no problem
/// information.
pub fn encode_suback_with(out: &mut Vec<u8>, packet_id: u16, reasons: &[ReasonCode], reason_string: &str) {
    out.push(0x90);
    let body_at = out.len();
    put_u16(out, packet_id);
    let properties_at = out.len();
    put_string_property(out, id::REASON_STRING, reason_string);
    insert_length(out, properties_at);
    out.extend(reasons.iter().map(|reason| reason.as_u8()));
    insert_length(out, body_at);
}

/// Appends an UNSUBACK: one reason per filter, in their order; before 5.0 they go unsaid.
pub fn encode_unsuback(
    out: &mut Vec<u8>,
    version: Version,
    packet_id: u16,
    reasons: impl IntoIterator<Item = ReasonCode>,
) {
    out.push(0xB0);
    let body_at = out.len();
    put_u16(out, packet_id);
    if version == Version::V5 {
        out.push(0);
        out.extend(reasons.into_iter().map(ReasonCode::as_u8));
    }
    insert_length(out, body_at);
}

#[cfg(test)]
mod tests {
    use super::{
        DecodeError, QoS, ReasonCode, RetainHandling, Subscribe, Subscription, Unsubscribe, Version, encode_suback,
        encode_suback_with, encode_unsuback,
    };
    use crate::codec::tests::framed;

    fn subscribe(bytes: &[u8], version: Version) -> Result<Subscribe<'_>, DecodeError> {
        Subscribe::decode(&framed(bytes), version)
    }

    fn unsubscribe(bytes: &[u8], version: Version) -> Result<Unsubscribe<'_>, DecodeError> {
        Unsubscribe::decode(&framed(bytes), version)
    }

    fn plain(filter: &str, qos: QoS) -> Subscription<'_> {
        Subscription { filter, qos, no_local: false, retain_as_published: false, retain_handling: RetainHandling::Send }
    }

    #[test]
    fn two_filters_in_3_1_1() {
        let bytes = b"\x82\x0E\x00\x0A\x00\x03a/b\x01\x00\x03c/#\x02";
        let subscribe = subscribe(bytes, Version::V3_1_1).unwrap();
        assert_eq!((subscribe.packet_id, subscribe.subscription_id), (10, None));
        let expected = [plain("a/b", QoS::AtLeastOnce), plain("c/#", QoS::ExactlyOnce)];
        assert!(subscribe.subscriptions.eq(expected));
    }

    #[test]
    fn every_option_of_version_5() {
        let bytes = b"\x82\x0A\x00\x0A\x03\x0B\xC8\x01\x00\x01a\x2E";
        let subscribe = subscribe(bytes, Version::V5).unwrap();
        assert_eq!(subscribe.subscription_id, Some(200));
        let expected = Subscription {
            no_local: true,
            retain_as_published: true,
            retain_handling: RetainHandling::DoNotSend,
            ..plain("a", QoS::ExactlyOnce)
        };
        assert!(subscribe.subscriptions.eq([expected]));
    }

    #[test]
    fn subscribes_that_are_refused() {
        let v3 = |bytes| subscribe(bytes, Version::V3_1_1).map(|_| ());
        let v5 = |bytes| subscribe(bytes, Version::V5).map(|_| ());
        assert_eq!(v3(b"\x82\x06\x00\x00\x00\x01a\x00"), Err(DecodeError::PacketIdZero));
        assert_eq!(v3(b"\x82\x02\x00\x01"), Err(DecodeError::NoFilters));
        assert_eq!(v5(b"\x82\x03\x00\x01\x00"), Err(DecodeError::NoFilters));
        assert_eq!(v3(b"\x82\x05\x00\x01\x00\x01a"), Err(DecodeError::Truncated));
        assert_eq!(v3(b"\x82\x06\x00\x01\x00\x01a\x03"), Err(DecodeError::SubscriptionOptions(3)));
        let reserved = DecodeError::SubscriptionOptionsReserved;
        assert_eq!(v3(b"\x82\x06\x00\x01\x00\x01a\x04"), Err(reserved(4)));
        assert_eq!(v5(b"\x82\x07\x00\x01\x00\x00\x01a\x40"), Err(reserved(0x40)));
        let handling_3 = v5(b"\x82\x07\x00\x01\x00\x00\x01a\x30");
        assert_eq!(handling_3, Err(DecodeError::SubscriptionOptions(0x30)));
        assert_eq!(v3(b"\x82\x07\x00\x01\x00\x02a#\x00"), Err(DecodeError::TopicFilter));
        assert_eq!(v3(b"\x82\x05\x00\x01\x00\x00\x00"), Err(DecodeError::TopicFilter));
        let id_0 = v5(b"\x82\x09\x00\x01\x02\x0B\x00\x00\x01a\x00");
        assert_eq!(id_0, Err(DecodeError::PropertyValue(0x0B)));
        let shared = b"\x82\x10\x00\x01\x00\x00\x0A$share/g/a\x04";
        assert_eq!(v5(shared), Err(DecodeError::NoLocalOnShared));
        assert_eq!(v3(b"\x8A\x06\x00\x01\x00\x01a\x00"), Err(DecodeError::FixedHeaderFlags(0x8A)));
        assert!(subscribe(b"\x8A\x06\x00\x01\x00\x01a\x00", Version::V3_1).is_ok(), "a resend");
    }

    #[test]
    fn unsubscribes() {
        let v3 = unsubscribe(b"\xA2\x09\x00\x0A\x00\x01a\x00\x02+/", Version::V3_1_1).unwrap();
        assert_eq!(v3.packet_id, 10);
        assert!(v3.filters.eq(["a", "+/"]));
        let v5 = unsubscribe(b"\xA2\x06\x00\x0A\x00\x00\x01a", Version::V5).unwrap();
        assert!(v5.filters.eq(["a"]));
        let refused = |bytes| unsubscribe(bytes, Version::V5).map(|_| ());
        assert_eq!(refused(b"\xA2\x03\x00\x0A\x00"), Err(DecodeError::NoFilters));
        assert_eq!(refused(b"\xA2\x06\x00\x00\x00\x00\x01a"), Err(DecodeError::PacketIdZero));
        assert_eq!(refused(b"\xA2\x07\x00\x01\x00\x00\x02#a"), Err(DecodeError::TopicFilter));
        assert_eq!(refused(b"\xA2\x05\x00\x01\x00\x00\x00"), Err(DecodeError::TopicFilter));
    }

    #[test]
    fn answers_per_version() {
        let reasons = [ReasonCode::GrantedQoS2, ReasonCode::Success, ReasonCode::NotAuthorized];
        let mut out = Vec::new();
        encode_suback(&mut out, Version::V3_1_1, 10, reasons);
        assert_eq!(out, b"\x90\x05\x00\x0A\x02\x00\x80");
        out.clear();
        encode_suback(&mut out, Version::V3_1, 10, reasons);
        assert_eq!(out, b"\x90\x05\x00\x0A\x02\x00\x00", "3.1 cannot say it");
        out.clear();
        encode_suback(&mut out, Version::V5, 10, reasons);
        assert_eq!(out, b"\x90\x06\x00\x0A\x00\x02\x00\x87");
        out.clear();
        encode_suback_with(&mut out, 10, &reasons, "no");
        assert_eq!(out, b"\x90\x0B\x00\x0A\x05\x1F\x00\x02no\x02\x00\x87");
        out.clear();
        let reasons = [ReasonCode::Success, ReasonCode::NoSubscriptionExisted];
        encode_unsuback(&mut out, Version::V3_1, 10, reasons);
        assert_eq!(out, b"\xB0\x02\x00\x0A");
        out.clear();
        encode_unsuback(&mut out, Version::V5, 10, reasons);
        assert_eq!(out, b"\xB0\x05\x00\x0A\x00\x00\x11");
    }
}
