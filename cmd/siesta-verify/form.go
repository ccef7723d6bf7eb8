package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"unicode/utf8"
)

// form says in which dress evidence came.
type form int

const (
	// rawReport is an SEV-SNP report as the firmware wrote it.
	rawReport form = iota + 1
	// rawQuote is a TD quote as the quoting enclave wrote it.
	rawQuote
	// clientReport is a parsed SNP report, as clients of the KBS protocol send it.
	clientReport
	// clientQuote is a TD quote in JSON, as clients of the KBS protocol send it.
	clientQuote
	// svsmReport is the JSON of coconut-svsm's aproxy.
	svsmReport
	// sampleEvidence is what stock clients make up outside confidential guests.
	sampleEvidence
)

// recognised is evidence whose form is known, and nothing else about it.
type recognised struct {
	form form
	// body is the innermost part: the bytes themselves, or one JSON object.
	body []byte
	// devices is true when the file carries evidence of further devices, which
	// this program does not judge.
	devices bool
}

const (
	// maxEvidence bounds evidence: the largest form, a JSON quote with its event
	// log, stays under 200 KiB.
	maxEvidence = 1 << 20
	// maxNesting is twice what the deepest known form needs.
	maxNesting = 16
	reportSize = 1184
	// headerSize is where the fields end that tell reports and quotes apart.
	headerSize = 0x38
)

// recognise tells forms apart by content alone. A known form with wrong content
// is left to the judge; an error means that there is nothing to judge, and says
// what the bytes look like instead.
func recognise(data []byte) (recognised, error) {
	if len(data) > maxEvidence {
		return recognised{}, fmt.Errorf("it has more than %d bytes, no evidence is that large", maxEvidence)
	}
	if text := bytes.TrimLeft(data, " \t\r\n"); len(text) > 0 && text[0] == '{' {
		return recogniseJSON(text)
	}
	switch {
	case len(data) == 0:
		return recognised{}, errors.New("it is empty; write the report or quote to it first")
	case looksLikeQuote(data):
		return recognised{form: rawQuote, body: data}, nil
	case looksLikeReport(data):
		return recognised{form: rawReport, body: data}, nil
	case bytes.HasPrefix(data, []byte("-----BEGIN ")), data[0] == 0x30 && !isText(data):
		return recognised{}, errors.New("it holds certificates; give the report as FILE and these with --cert")
	case bytes.HasPrefix(data, sgxHeader):
		return recognised{}, errors.New("it is a quote of an SGX enclave, not of a TDX guest")
	case bytes.Contains(data[:min(len(data), 64)], []byte("Spec ID Event03")):
		return recognised{}, errors.New("it is an event log; give the quote, as JSON with the log in its member cc_eventlog")
	case isText(data):
		return recognised{}, errors.New("it is text; decode it (base64 -d, xxd -r -p) to the raw report or quote first")
	}
	return recognised{}, fmt.Errorf("it is neither an SEV-SNP report (%d bytes), a TD quote of version 4 or 5, nor JSON of a KBS client", reportSize)
}

// sgxHeader opens ECDSA quotes of enclaves: version 3, P-256.
var sgxHeader = []byte{3, 0, 2, 0, 0, 0, 0, 0}

// looksLikeQuote knows a TD quote by its header (Intel TDX DCAP Quoting Library
// API, A.3.1): version, kind of attestation key, TEE type 0x81. Which versions
// are good is for the judge to say.
func looksLikeQuote(data []byte) bool {
	if len(data) < 8 {
		return false
	}
	key := binary.LittleEndian.Uint16(data[2:])
	return (key == 2 || key == 3) && binary.LittleEndian.Uint32(data[4:]) == 0x81
}

// looksLikeReport knows an SEV-SNP report by its length, or, cut or continued, by
// a small version and the number of its signature algorithm (AMD 56860, table
// ATTESTATION_REPORT).
func looksLikeReport(data []byte) bool {
	if len(data) < headerSize {
		return false
	}
	version := binary.LittleEndian.Uint32(data)
	if version == 0 || version > 0xff {
		return false
	}
	return len(data) == reportSize || binary.LittleEndian.Uint32(data[0x34:]) == 1
}

func isText(data []byte) bool {
	return !slices.ContainsFunc(data, func(b byte) bool { return b > '~' || (b < ' ' && b != '\n' && b != '\r' && b != '\t') })
}

// recogniseJSON unwraps the KBS attestation request as far as it is wrapped.
func recogniseJSON(text []byte) (recognised, error) {
	if !utf8.Valid(text) {
		return recognised{}, errors.New("it begins like JSON, but is not UTF-8")
	}
	if err := boundedNesting(text); err != nil {
		return recognised{}, err
	}
	var out recognised
	for range 3 {
		m, err := members(text)
		if err != nil {
			return recognised{}, err
		}
		if extra, ok := m["additional_evidence"]; ok {
			out.devices = out.devices || !slices.Contains([]string{`""`, `null`, `"{}"`, `{}`}, string(extra))
		}
		var inner json.RawMessage
		for _, wrapper := range []string{"tee-evidence", "primary_evidence"} {
			if v, ok := m[wrapper]; ok {
				inner = v
				break
			}
		}
		if inner == nil {
			out.form, err = formOf(m)
			out.body = text
			return out, err
		}
		if text = inner; text[0] == '"' {
			// Some clients put the JSON into a string.
			var s string
			if err := json.Unmarshal(text, &s); err != nil {
				return recognised{}, notJSON(err)
			}
			text = bytes.TrimLeft([]byte(s), " \t\r\n")
			if err := boundedNesting(text); err != nil {
				return recognised{}, err
			}
		}
	}
	return recognised{}, errors.New("its evidence is wrapped more often than the KBS protocol does")
}

func formOf(m map[string]json.RawMessage) (form, error) {
	found := make([]form, 0, 1)
	for name, f := range map[string]form{
		"attestation_report": clientReport, "quote": clientQuote, "snp-report": svsmReport,
	} {
		if _, ok := m[name]; ok {
			found = append(found, f)
		}
	}
	has := func(names ...string) bool {
		return !slices.ContainsFunc(names, func(n string) bool { _, ok := m[n]; return !ok })
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return 0, errors.New("it holds evidence of more than one kind; give each in a file of its own")
	case has("svn", "report_data"):
		return sampleEvidence, nil
	case has("decision", "evidence"):
		return 0, errors.New("it is a stored decision; replay it with `siesta-verify decision`")
	case has("tcb_info") || has("tcbInfo") || has("enclaveIdentity") || has("qe_identity"):
		return 0, errors.New("it is TDX collateral; give the quote as FILE and this with --collateral")
	}
	return 0, errors.New("it is JSON, but none of a KBS client: no attestation_report, quote or snp-report in it")
}

// members reads one JSON object strictly: no name twice, nothing behind it.
func members(text []byte) (map[string]json.RawMessage, error) {
	dec := json.NewDecoder(bytes.NewReader(text))
	open, err := dec.Token()
	if err != nil {
		return nil, notJSON(err)
	}
	if open != json.Delim('{') {
		return nil, errors.New("its evidence is JSON, but no object")
	}
	out := make(map[string]json.RawMessage)
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return nil, notJSON(err)
		}
		name, ok := token.(string)
		if !ok {
			return nil, notJSON(io.ErrUnexpectedEOF)
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, notJSON(err)
		}
		if _, twice := out[name]; twice {
			return nil, errors.New("it is JSON that names a member twice, which readers understand differently")
		}
		out[name] = value
	}
	if _, err := dec.Token(); err != nil {
		return nil, notJSON(err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows its JSON object; give one object per file")
	}
	return out, nil
}

// boundedNesting refuses deep JSON before anything recursive reads it.
func boundedNesting(text []byte) error {
	depth, quoted := 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			if depth++; depth > maxNesting {
				return fmt.Errorf("it is JSON nested deeper than %d levels, no evidence is", maxNesting)
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return nil
}

// notJSON keeps where the syntax broke and drops what stood there.
func notJSON(err error) error {
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return fmt.Errorf("it begins like JSON and breaks at byte %d", syntax.Offset)
	}
	return errors.New("it begins like JSON and ends too early; copy it again")
}
