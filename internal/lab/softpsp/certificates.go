//go:build devtee

package softpsp

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"time"

	"github.com/eosc-siesta/siestad/internal/attest"
)

// The names and extensions are AMD's, so that the same reader reads both.
func amdName(commonName string) pkix.Name {
	return pkix.Name{
		OrganizationalUnit: []string{"Engineering"},
		Country:            []string{"US"},
		Locality:           []string{"Santa Clara"},
		Province:           []string{"CA"},
		Organization:       []string{"Advanced Micro Devices"},
		CommonName:         commonName,
	}
}

func authorityTemplate(commonName, line string, now time.Time) *x509.Certificate {
	return &x509.Certificate{
		Subject:               amdName(commonName),
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.AddDate(25, 0, 0),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		CRLDistributionPoints: []string{"https://kdsintf.amd.com/vcek/v1/" + line + "/crl"},
	}
}

func (p *PSP) leafTemplate(now time.Time) (*x509.Certificate, error) {
	name := "SEV-VCEK"
	if p.provider != "" {
		name = "SEV-VLEK"
	}
	t := &x509.Certificate{Subject: amdName(name), NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(7, 0, 0)}
	add := func(value []byte, err error, oid ...int) error {
		id := append(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1}, oid...)
		t.ExtraExtensions = append(t.ExtraExtensions, pkix.Extension{Id: id, Value: value})
		return err
	}
	version, product := 0, p.line+"-B0"
	levels := map[int]uint8{1: p.tcb.Bootloader, 2: p.tcb.TEE, 3: p.tcb.SNP, 4: 0, 5: 0, 6: 0, 7: 0, 8: p.tcb.Microcode}
	if p.line == attest.Turin {
		version = 1
		delete(levels, 4)
		levels[9] = p.tcb.FMC
	}
	structVersion, err := asn1.Marshal(version)
	if err := add(structVersion, err, 1); err != nil {
		return nil, err
	}
	productName, err := asn1.MarshalWithParams(product, "ia5")
	if err := add(productName, err, 2); err != nil {
		return nil, err
	}
	for n, level := range levels {
		value, err := asn1.Marshal(int(level))
		if err := add(value, err, 3, n); err != nil {
			return nil, err
		}
	}
	if p.provider != "" {
		csp, err := asn1.MarshalWithParams(p.provider, "ia5")
		return t, add(csp, err, 5)
	}
	// AMD puts the bare bytes here, without a tag.
	return t, add(p.chipID[:p.idBytes()], nil, 4)
}

// RevocationList signs a list of serial numbers, valid from one instant to another.
func (p *PSP) RevocationList(from, to time.Time, revoked ...*big.Int) ([]byte, error) {
	list := &x509.RevocationList{Number: big.NewInt(from.Unix()), ThisUpdate: from, NextUpdate: to, SignatureAlgorithm: x509.SHA384WithRSAPSS}
	for _, s := range revoked {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: s, RevocationTime: from})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, p.ark, p.arkKey)
	if err != nil {
		return nil, fmt.Errorf("signing revocation list: %w", err)
	}
	return der, nil
}

// certify signs a certificate; without a parent it signs itself.
func certify(template, parent *x509.Certificate, subject crypto.PublicKey, signer crypto.Signer) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial.Add(serial, big.NewInt(1))
	template.SignatureAlgorithm = x509.SHA384WithRSAPSS
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, subject, signer)
	if err != nil {
		return nil, fmt.Errorf("signing %s: %w", template.Subject.CommonName, err)
	}
	return x509.ParseCertificate(der)
}
