//! Tagged unions of messages: `[number, message]` on the wire.

/// Declares a tagged union: for each variant its number on the wire and the message in it.
///
/// Not derived: the `flat` representation of minicbor has the same bytes, but doesn't refuse
/// surplus elements of the array.
macro_rules! tagged {
    ($(#[$meta:meta])* $choice:ident { $($number:literal $name:ident($message:ty) $doc:literal;)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum $choice {
            $(#[doc = $doc] $name($message),)*
        }

        impl<C> Encode<C> for $choice {
            fn encode<W: minicbor::encode::Write>(
                &self,
                e: &mut Encoder<W>,
                context: &mut C,
            ) -> Result<(), minicbor::encode::Error<W::Error>> {
                e.array(2)?;
                match self {
                    $(Self::$name(message) => message.encode(e.u16($number)?, context),)*
                }
            }
        }

        impl<'b, C> Decode<'b, C> for $choice {
            fn decode(
                d: &mut Decoder<'b>,
                context: &mut C,
            ) -> Result<Self, minicbor::decode::Error> {
                let position = d.position();
                if d.array()? != Some(2) {
                    let error = minicbor::decode::Error::message("not one of several messages");
                    return Err(error.at(position));
                }
                let position = d.position();
                match d.u16()? {
                    $($number => Ok(Self::$name(Decode::decode(d, context)?)),)*
                    kind => Err(minicbor::decode::Error::unknown_variant(i64::from(kind))
                        .at(position)),
                }
            }
        }
    };
}

pub(super) use tagged;
