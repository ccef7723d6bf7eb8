package main

import (
	"crypto/x509"
	"errors"
	"slices"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/kbs"
)

// evidence unpacks the recognised form into the bytes that were signed. unknown
// counts members of a client's report for which those bytes have no place here.
func (r recognised) evidence() (ev attest.Evidence, unknown int, err error) {
	tee := attest.SEVSNP
	switch r.form {
	case rawReport:
		return attest.Evidence{TEE: attest.SEVSNP, Report: r.body}, 0, nil
	case rawQuote:
		return attest.Evidence{TEE: attest.TDX, Report: r.body}, 0, nil
	case sampleEvidence:
		// No hardware made it: the judge refuses it by its name.
		return attest.Evidence{TEE: "sample"}, 0, nil
	case clientQuote:
		tee = attest.TDX
	}
	parsed, err := kbs.ParseEvidence(string(tee), r.body)
	if err != nil {
		// The protocol's own words are for clients; the cause is for people.
		if cause := errors.Unwrap(err); cause != nil {
			err = cause
		}
		return attest.Evidence{}, 0, err
	}
	return attest.Evidence{TEE: tee, Report: parsed.Report, Certificates: parsed.Certificates, EventLog: parsed.EventLog}, parsed.Unknown, nil
}

// gather turns the files beside the evidence into collateral. Certificates that
// were named on the command line come before those that the guest sent along.
// Collateral that its vendor did not sign is not used, and refuses.
func (q *question) gather(given certificates, intel *intelCollateral) {
	var err error
	var objects []attest.Object
	for _, der := range given.crls {
		objects = append(objects, attest.Object{Kind: attest.KindAMDCRL, Bytes: der})
	}
	if intel != nil {
		objects = append(objects, intel.objects()...)
	}
	roots := attest.AMDRoots()
	if q.collateral, err = attest.NewCollateral(roots, objects); err != nil {
		q.collateral, q.doubt = attest.Collateral{Roots: roots}, err.Error()
	}
	if len(given.certs) > 0 {
		var sent certificates
		if sent.add(q.evidence.Certificates) == nil {
			given.certs = append(given.certs, sent.certs...)
		}
		q.evidence.Certificates = leavesFirst(given.certs)
	}
}

// leavesFirst joins certificates so that a long chain cannot push the chip's own
// out of the few that are looked at.
func leavesFirst(certs [][]byte) []byte {
	authority := func(der []byte) int {
		if c, err := x509.ParseCertificate(der); err == nil && !c.IsCA {
			return 0
		}
		return 1
	}
	sorted := slices.Clone(certs)
	slices.SortStableFunc(sorted, func(a, b []byte) int { return authority(a) - authority(b) })
	return slices.Concat(sorted...)
}
