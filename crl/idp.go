package crl

import (
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"net/url"
)

var oidIssuingDistributionPoint = asn1.ObjectIdentifier{2, 5, 29, 28}

// IDP is the content of an IssuingDistributionPoint extension (RFC 5280 section 5.2.5): which certificates
// its CRL speaks of.
type IDP struct {
	URLs []string // the URIs of distributionPoint's fullName

	// The rest says that the CRL is not about every certificate of its issuer.
	OnlyUserCerts      bool
	OnlyCACerts        bool
	OnlyAttributeCerts bool
	OnlySomeReasons    bool
	Indirect           bool // it holds entries of other issuers
}

// Full reports whether the CRL speaks, for every reason, of every certificate that names its URL.
func (p IDP) Full() bool {
	return !p.OnlyUserCerts && !p.OnlyCACerts && !p.OnlyAttributeCerts && !p.OnlySomeReasons && !p.Indirect
}

// MarshalIDP returns the critical extension for a full CRL that is published at an http or https URL. The
// URL must be the one in the CRL distribution point of the certificates, letter by letter: that is how a
// checker tells one shard of an issuer from another.
func MarshalIDP(location string) (pkix.Extension, error) {
	if err := checkURL(location); err != nil {
		return pkix.Extension{}, err
	}
	var idp issuingDistributionPoint
	idp.DistributionPoint.FullName = []asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: generalNameURI, Bytes: []byte(location)}}
	value, err := asn1.Marshal(idp)
	if err != nil {
		return pkix.Extension{}, fmt.Errorf("encoding IssuingDistributionPoint: %w", err)
	}
	return pkix.Extension{Id: oidIssuingDistributionPoint, Critical: true, Value: value}, nil
}

// ParseIDP reads the extension's value. Names that are not URIs are left out.
func ParseIDP(value []byte) (IDP, error) {
	var raw issuingDistributionPoint
	if rest, err := asn1.Unmarshal(value, &raw); err != nil {
		return IDP{}, fmt.Errorf("decoding IssuingDistributionPoint: %w", err)
	} else if len(rest) > 0 {
		return IDP{}, errors.New("decoding IssuingDistributionPoint: data after its end")
	}
	idp := IDP{
		OnlyUserCerts:      raw.OnlyContainsUserCerts,
		OnlyCACerts:        raw.OnlyContainsCACerts,
		OnlyAttributeCerts: raw.OnlyContainsAttributeCerts,
		OnlySomeReasons:    raw.OnlySomeReasons.BitLength > 0,
		Indirect:           raw.IndirectCRL,
	}
	for _, name := range raw.DistributionPoint.FullName {
		if name.Class == asn1.ClassContextSpecific && name.Tag == generalNameURI {
			idp.URLs = append(idp.URLs, string(name.Bytes))
		}
	}
	return idp, nil
}

const generalNameURI = 6 // uniformResourceIdentifier [6] IA5String, RFC 5280 section 4.2.1.6

type issuingDistributionPoint struct {
	DistributionPoint          distributionPointName `asn1:"optional,tag:0"`
	OnlyContainsUserCerts      bool                  `asn1:"optional,tag:1"`
	OnlyContainsCACerts        bool                  `asn1:"optional,tag:2"`
	OnlySomeReasons            asn1.BitString        `asn1:"optional,tag:3"`
	IndirectCRL                bool                  `asn1:"optional,tag:4"`
	OnlyContainsAttributeCerts bool                  `asn1:"optional,tag:5"`
}

// distributionPoint is one of the sequence in a FreshestCRL extension (RFC 5280 section 4.2.1.13).
type distributionPoint struct {
	Name    distributionPointName `asn1:"optional,tag:0"`
	Reasons asn1.BitString        `asn1:"optional,tag:1"`
	Issuer  asn1.RawValue         `asn1:"optional,tag:2"`
}

type distributionPointName struct {
	FullName     []asn1.RawValue  `asn1:"optional,tag:0"`
	RelativeName pkix.RDNSequence `asn1:"optional,tag:1"`
}

// checkURL accepts what may stand in a distribution point: an absolute http or https URL in ASCII.
func checkURL(location string) error {
	u, err := url.Parse(location)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return fmt.Errorf("CRL URL %q: want an absolute http or https URL", location)
	}
	for _, c := range []byte(location) {
		if c <= ' ' || c >= 0x7f {
			return fmt.Errorf("CRL URL %q: want ASCII without spaces (RFC 5280 section 7.4)", location)
		}
	}
	return nil
}
