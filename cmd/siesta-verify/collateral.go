package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/eosc-siesta/siestad/internal/attest"
)

// intelCollateral is what Intel says about a platform, each object as Intel's
// service (PCS v4) hands it out: chains in PEM, lists in DER, and the signed
// documents with their signature beside them.
type intelCollateral struct {
	pckCRL, rootCRL     []byte
	tcbInfo, tcbChain   []byte
	qeIdentity, qeChain []byte
}

// readIntel reads one JSON object with the member names of Intel's quote
// verification library (sgx_ql_qve_collateral_t). A missing object is no error
// here: the judge says what its absence costs. Documents may be objects or
// strings, with the signature inside or in a member of its own; lists DER in hex
// or base64, or PEM; chains PEM, also as they stand in Intel's HTTP headers.
func readIntel(text []byte) (*intelCollateral, error) {
	text = bytes.TrimSpace(text)
	if len(text) == 0 {
		return nil, errors.New("it is empty")
	}
	if err := boundedNesting(text); err != nil {
		return nil, err
	}
	m, err := members(text)
	if err != nil {
		return nil, err
	}
	c := new(intelCollateral)
	known := 0
	for _, o := range []struct {
		name string
		to   *[]byte
		read func(json.RawMessage) ([]byte, error)
	}{
		// The issuer of the PCK list comes with the quote, and is proved there.
		{"pck_crl_issuer_chain", new([]byte), readChain},
		{"pck_crl", &c.pckCRL, readList},
		{"root_ca_crl", &c.rootCRL, readList},
		{"tcb_info_issuer_chain", &c.tcbChain, readChain},
		{"tcb_info", &c.tcbInfo, signedDocument("tcbInfo", m["tcb_info_signature"])},
		{"qe_identity_issuer_chain", &c.qeChain, readChain},
		{"qe_identity", &c.qeIdentity, signedDocument("enclaveIdentity", m["qe_identity_signature"])},
	} {
		value, ok := m[o.name]
		if !ok || string(value) == "null" {
			continue
		}
		known++
		if *o.to, err = o.read(value); err != nil {
			return nil, fmt.Errorf("its %s %w", o.name, err)
		}
	}
	if known == 0 {
		return nil, errors.New("it has none of Intel's member names (tcb_info, qe_identity, pck_crl, root_ca_crl, their _signature and _issuer_chain)")
	}
	return c, nil
}

// objects names what was there as the judge does.
func (c *intelCollateral) objects() (out []attest.Object) {
	for _, o := range []attest.Object{
		{Kind: attest.KindTCBInfo, Bytes: c.tcbInfo},
		{Kind: attest.KindTCBChain, Bytes: c.tcbChain},
		{Kind: attest.KindQEIdentity, Bytes: c.qeIdentity},
		{Kind: attest.KindQEChain, Bytes: c.qeChain},
		{Kind: attest.KindPCKCRL, Bytes: c.pckCRL},
		{Kind: attest.KindIntelRootCRL, Bytes: c.rootCRL},
	} {
		if o.Bytes != nil {
			out = append(out, o)
		}
	}
	return out
}

func readString(value json.RawMessage) (string, error) {
	var s string
	if err := json.Unmarshal(value, &s); err != nil || s == "" {
		return "", errors.New("is no text")
	}
	return s, nil
}

func readChain(value json.RawMessage) ([]byte, error) {
	s, err := readString(value)
	if err != nil {
		return nil, err
	}
	if strings.Contains(s, "%0A") || strings.Contains(s, "%0a") {
		if s, err = url.PathUnescape(s); err != nil {
			return nil, errors.New("is percent-encoded, and wrongly so")
		}
	}
	// Some builds of Intel's library count the final zero of C into the text.
	s = strings.TrimRight(s, "\x00\r\n \t")
	if block, _ := pem.Decode([]byte(s)); block == nil {
		return nil, errors.New("is no PEM")
	}
	return []byte(s + "\n"), nil
}

func readList(value json.RawMessage) ([]byte, error) {
	s, err := readString(value)
	if err != nil {
		return nil, err
	}
	s = strings.TrimRight(s, "\x00\r\n \t")
	if block, _ := pem.Decode([]byte(s)); block != nil {
		return block.Bytes, nil
	}
	for _, decode := range []func(string) ([]byte, error){hex.DecodeString, base64.StdEncoding.DecodeString} {
		if der, err := decode(s); err == nil && len(der) > 0 && der[0] == 0x30 {
			return der, nil
		}
	}
	return nil, errors.New("is no revocation list in hex, base64 or PEM")
}

// signedDocument brings a document into the shape of Intel's answer,
// {"<name>":…,"signature":"…"}. The signature covers the document without
// blanks, which compacting restores when somebody has made it pretty.
func signedDocument(name string, signature json.RawMessage) func(json.RawMessage) ([]byte, error) {
	return func(value json.RawMessage) ([]byte, error) {
		doc := []byte(value)
		if len(doc) > 0 && doc[0] == '"' {
			s, err := readString(value)
			if err != nil {
				return nil, err
			}
			doc = []byte(strings.TrimRight(s, "\x00"))
		}
		if err := boundedNesting(doc); err != nil {
			return nil, fmt.Errorf("cannot be read: %w", err)
		}
		m, err := members(doc)
		if err != nil {
			return nil, fmt.Errorf("cannot be read: %w", err)
		}
		if inner, ok := m[name]; ok {
			doc, signature = inner, m["signature"]
		}
		sig, err := readString(signature)
		if err != nil {
			return nil, errors.New("comes without its signature")
		}
		if _, err := hex.DecodeString(sig); err != nil {
			return nil, errors.New("has a signature that is no hex")
		}
		var out bytes.Buffer
		fmt.Fprintf(&out, `{"%s":`, name)
		if err := json.Compact(&out, doc); err != nil {
			return nil, errors.New("is no JSON")
		}
		fmt.Fprintf(&out, `,"signature":"%s"}`, strings.ToLower(sig))
		return out.Bytes(), nil
	}
}
