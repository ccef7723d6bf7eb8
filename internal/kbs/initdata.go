package kbs

import (
	"errors"
	"strings"
)

// InitData is configuration that the host measured into the guest at launch:
// its digest has to stand in HOST_DATA (SNP) or MRCONFIGID (TDX). It is a claim
// of the client until it has been compared.
type InitData struct {
	// Text is the TOML as sent; the digest is over these very bytes.
	Text string
	hash Hash
}

func (r *reader) initData() (*InitData, error) {
	var format, body string
	_, err := r.members(true, []member{
		{name: "format", read: func() (err error) { format, err = r.text(16); return err }},
		{name: "body", read: func() (err error) { body, err = r.text(maxInitData); return err }},
	})
	if err != nil {
		return nil, err
	}
	if format != "toml" {
		return nil, errors.New("a format other than toml")
	}
	return ParseInitData(body)
}

// ParseInitData finds version and algorithm at the head of the text. Of TOML it
// knows what such heads are made of (bare names, plain strings, comments) and
// refuses the rest, so that no other reader could find another algorithm.
func ParseInitData(toml string) (*InitData, error) {
	if len(toml) > maxInitData {
		return nil, errLong
	}
	head := map[string]string{}
	for line := range strings.SplitSeq(toml, "\n") {
		line = strings.Trim(line, " \t\r")
		if line == "" || line[0] == '#' {
			continue
		}
		if line[0] == '[' {
			break
		}
		name, text, ok := strings.Cut(line, "=")
		name = strings.TrimRight(name, " \t")
		if !ok || name != "version" && name != "algorithm" {
			return nil, errors.New("the head of init-data names something other than version and algorithm")
		}
		if _, twice := head[name]; twice {
			return nil, errTwice
		}
		if head[name], ok = plainString(strings.TrimLeft(text, " \t")); !ok {
			return nil, errors.New("version or algorithm of init-data is not a plain string")
		}
	}
	d := &InitData{Text: toml, hash: Hash(head["algorithm"])}
	if head["version"] != "0.1.0" {
		return nil, errors.New("init-data is not of version 0.1.0")
	}
	if _, err := d.hash.sum(nil); err != nil {
		return nil, errors.New("the algorithm of init-data is none of sha256, sha384 and sha512")
	}
	return d, nil
}

// plainString reads "…" or '…', and a comment behind it. Escapes stay as they are:
// no value that is looked for has a backslash.
func plainString(s string) (string, bool) {
	if s == "" || s[0] != '"' && s[0] != '\'' {
		return "", false
	}
	inner, rest, ok := strings.Cut(s[1:], s[:1])
	rest = strings.TrimLeft(rest, " \t")
	return inner, ok && (rest == "" || rest[0] == '#')
}

// HostData is the digest as SNP carries it: cut or padded with zeros to 32 bytes.
func (d *InitData) HostData() (out [32]byte) {
	sum, _ := d.hash.sum([]byte(d.Text))
	copy(out[:], sum)
	return out
}

// MRConfigID is the digest as TDX carries it: cut or padded to 48 bytes.
func (d *InitData) MRConfigID() (out [48]byte) {
	sum, _ := d.hash.sum([]byte(d.Text))
	copy(out[:], sum)
	return out
}
