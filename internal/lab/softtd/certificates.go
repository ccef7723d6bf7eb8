//go:build devtee

package softtd

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"fmt"
	"math/big"
	"slices"
	"time"
)

// The common names and the extensions are Intel's, so that the same reader reads both; the organization is not.
func template(commonName string) *x509.Certificate {
	return &x509.Certificate{
		Subject:               pkix.Name{CommonName: commonName, Organization: []string{"Simulated hardware, which protects nothing"}, Country: []string{"US"}},
		BasicConstraintsValid: true,
		CRLDistributionPoints: []string{"https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"},
	}
}

func authority(commonName string) *x509.Certificate {
	t := template(commonName)
	t.IsCA, t.KeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
	return t
}

func leaf(commonName string) *x509.Certificate {
	t := template(commonName)
	t.KeyUsage = x509.KeyUsageDigitalSignature | x509.KeyUsageContentCommitment
	return t
}

// certify signs a certificate; without a parent it signs itself.
func (p *Platform) certify(t, parent *x509.Certificate, subject, by *ecdsa.PrivateKey) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 152))
	if err != nil {
		return nil, err
	}
	public, err := subject.PublicKey.Bytes()
	if err != nil {
		return nil, err
	}
	id := sha256.Sum256(public)
	t.SerialNumber, t.SubjectKeyId = serial.Add(serial, big.NewInt(1)), id[:20]
	t.NotBefore, t.NotAfter = p.made.Add(-time.Hour), p.made.AddDate(7, 0, 0)
	if parent == nil {
		parent, t.NotAfter = t, p.made.AddDate(30, 0, 0)
	}
	der, err := x509.CreateCertificate(rand.Reader, t, parent, &subject.PublicKey, by)
	if err != nil {
		return nil, fmt.Errorf("signing %s: %w", t.Subject.CommonName, err)
	}
	return x509.ParseCertificate(der)
}

type attribute struct {
	ID    asn1.ObjectIdentifier
	Value any
}

// sgxExtension says in the platform's certificate which machine it is and how far it is patched (Intel SGX PCK Certificate
// and CRL Profile Specification).
func (p *Platform) sgxExtension() (pkix.Extension, error) {
	base := asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1}
	oid := func(n ...int) asn1.ObjectIdentifier { return append(slices.Clone(base), n...) }
	var tcb []attribute
	for i, svn := range components {
		tcb = append(tcb, attribute{oid(2, i+1), int(svn)})
	}
	tcb = append(tcb, attribute{oid(2, 17), pceSVN}, attribute{oid(2, 18), components[:]})
	pce, err := hex.DecodeString(pceID)
	if err != nil {
		return pkix.Extension{}, err
	}
	fmspc, err := hex.DecodeString(FMSPC)
	if err != nil {
		return pkix.Extension{}, err
	}
	var parts []asn1.RawValue
	for _, a := range []attribute{{oid(1), p.ppid[:]}, {oid(2), tcb}, {oid(3), pce}, {oid(4), fmspc}, {oid(5), asn1.Enumerated(1)}} {
		der, err := asn1.Marshal(a)
		if err != nil {
			return pkix.Extension{}, fmt.Errorf("writing the SGX extension: %w", err)
		}
		parts = append(parts, asn1.RawValue{FullBytes: der})
	}
	der, err := asn1.Marshal(parts)
	if err != nil {
		return pkix.Extension{}, fmt.Errorf("writing the SGX extension: %w", err)
	}
	return pkix.Extension{Id: base, Value: der}, nil
}
