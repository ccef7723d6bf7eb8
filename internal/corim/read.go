package corim

import (
	"fmt"
	"slices"
	"strconv"
	"time"
	"unicode"
)

// Tags of CBOR in a document.
const (
	tagURI      = 32
	tagTime     = 1
	tagUnsigned = 501
	tagComid    = 506
	tagSVN      = 552
	tagMinSVN   = 553
	maxText     = 300
	maxID       = 256
	maxPassed   = 50
)

// reader collects what is passed over, each kind once, and after some of them only that there is more.
type reader struct{ doc *Document }

func (r reader) pass(format string, args ...any) {
	what := fmt.Sprintf(format, args...)
	if len(r.doc.Passed) > maxPassed || slices.Contains(r.doc.Passed, what) {
		return
	}
	if len(r.doc.Passed) == maxPassed {
		what = "and more"
	}
	r.doc.Passed = append(r.doc.Passed, what)
}

// rest passes over the members of a map that are not among the known ones.
func (r reader) rest(m item, of string, known ...string) {
	for i := 0; i < len(m.list); i += 2 {
		if key := label(m.list[i]); !slices.Contains(known, key) {
			r.pass("member %s of %s", key, of)
		}
	}
}

func bad(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrInvalid}, args...)...)
}

// readDocument reads the payload of a signature: tag 501 on a map.
func readDocument(payload []byte) (Document, error) {
	outer, err := decode(payload)
	if err != nil {
		return Document{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	m, ok := outer.untag(tagUnsigned)
	if !ok || m.major != majorMap {
		return Document{}, bad("what is signed is no CoRIM (tag 501)")
	}
	var doc Document
	r := reader{&doc}
	if doc.ID, err = name(m, 0, "corim-id"); err != nil {
		return Document{}, err
	}
	for i := 0; i < len(m.list); i += 2 {
		value := m.list[i+1]
		switch label(m.list[i]) {
		case "0":
		case "1":
			if err := r.tags(value); err != nil {
				return Document{}, err
			}
		case "3":
			if doc.Profile, err = profile(value); err != nil {
				return Document{}, err
			}
		case "4":
			if doc.NotBefore, doc.NotAfter, err = validity(value); err != nil {
				return Document{}, err
			}
		case "5":
			if doc.Author, err = entity(value, 1); err != nil {
				return Document{}, err
			}
		default:
			r.pass("member %s of the document", label(m.list[i]))
		}
	}
	if len(doc.Tags) == 0 {
		return Document{}, bad("it has no CoMID tag")
	}
	return doc, nil
}

// profile is read strictly: what is not understood changes what the rest means.
func profile(it item) (string, error) {
	if uri, ok := it.untag(tagURI); ok && string(uri.text) == ProfileSNP {
		return ProfileSNP, nil
	}
	return "", bad("its profile is not known here, so what it means is not")
}

func (r reader) tags(list item) error {
	if list.major != majorArray {
		return bad("tags is no array")
	}
	for _, t := range list.list {
		content, ok := t.untag(tagComid)
		if !ok {
			if t.major == majorTag {
				r.pass("a tag of another kind (%d)", t.n)
				continue
			}
			return bad("among the tags is something untagged")
		}
		if content.major != majorBytes {
			return bad("a CoMID is not in a byte string")
		}
		comid, err := decode(content.text)
		if err != nil {
			return fmt.Errorf("%w: CoMID: %w", ErrInvalid, err)
		}
		tag, err := r.comid(comid)
		if err != nil {
			return err
		}
		r.doc.Tags = append(r.doc.Tags, tag)
	}
	return nil
}

func (r reader) comid(m item) (tag Tag, err error) {
	if m.major != majorMap {
		return Tag{}, bad("a CoMID is no map")
	}
	r.rest(m, "a CoMID", "1", "2", "4")
	identity, _ := m.get(1)
	if tag.ID, err = name(identity, 0, "tag-id"); err != nil {
		return Tag{}, err
	}
	r.rest(identity, "a tag's identity", "0", "1")
	if v, ok := identity.get(1); ok {
		if v.major != majorUint {
			return Tag{}, bad("tag-version is no number")
		}
		tag.Version = v.n
	}
	if entities, ok := m.get(2); ok {
		if tag.Author, err = entity(entities, 0); err != nil {
			return Tag{}, err
		}
	}
	triples, _ := m.get(4)
	if triples.major != majorMap {
		return Tag{}, bad("CoMID %s has no triples", tag.ID)
	}
	for i := 0; i < len(triples.list); i += 2 {
		value := triples.list[i+1]
		if key := label(triples.list[i]); key != "0" {
			r.pass("triples of another kind (%s)", key)
			continue
		}
		if value.major != majorArray {
			return Tag{}, bad("reference-triples is no array")
		}
		for _, triple := range value.list {
			values, err := r.triple(triple)
			if err != nil {
				return Tag{}, err
			}
			tag.Values = append(tag.Values, values...)
		}
	}
	return tag, nil
}

// label is a map's key on one line; text is in quotation marks, so that it is never taken for a number.
func label(key item) string {
	switch n, ok := key.int64(); {
	case key.major == majorUint:
		return strconv.FormatUint(key.n, 10)
	case key.major == majorText:
		return strconv.Quote(string(key.text[:min(len(key.text), 40)]))
	case ok:
		return strconv.FormatInt(n, 10)
	}
	return "below -2^62"
}

func (r reader) triple(it item) ([]Value, error) {
	if it.major != majorArray || len(it.list) != 2 || it.list[1].major != majorArray || len(it.list[1].list) == 0 {
		return nil, bad("a reference triple is not an environment and its measurements")
	}
	env, err := environment(it.list[0])
	if err != nil {
		return nil, err
	}
	var out []Value
	for _, m := range it.list[1].list {
		if m.major != majorMap {
			return nil, bad("a measurement is no map")
		}
		if _, ok := m.get(2); ok {
			r.pass("a measurement that counts only under another authority (authorized-by)")
			continue
		}
		r.rest(m, "a measurement", "0", "1")
		v := Value{Environment: env}
		if key, ok := m.get(0); ok {
			if v.Key, err = measured(key); err != nil {
				return nil, err
			}
		}
		values, ok := m.get(1)
		if !ok || values.major != majorMap {
			return nil, bad("a measurement has no values")
		}
		if err := r.values(values, &v); err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

func environment(it item) (env Environment, err error) {
	if it.major != majorMap || len(it.list) == 0 {
		return env, bad("an environment is no map, or an empty one")
	}
	for i := 0; i < len(it.list); i += 2 {
		value := it.list[i+1]
		switch label(it.list[i]) {
		case "0":
			err = class(value, &env)
		case "1":
			env.Instance, err = identifier(value)
		case "2":
			env.Group, err = identifier(value)
		default:
			err = bad("an environment is narrowed by what is not known here")
		}
		if err != nil {
			return Environment{}, err
		}
	}
	return env, nil
}

func class(it item, env *Environment) (err error) {
	if it.major != majorMap || len(it.list) == 0 {
		return bad("a class is no map, or an empty one")
	}
	for i := 0; i < len(it.list); i += 2 {
		value := it.list[i+1]
		switch label(it.list[i]) {
		case "0":
			env.Class, err = identifier(value)
		case "1":
			env.Vendor, err = printable(value, "vendor")
		case "2":
			env.Model, err = printable(value, "model")
		case "3":
			env.Layer, err = number(value, "layer")
		case "4":
			env.Index, err = number(value, "index")
		default:
			err = bad("a class is narrowed by what is not known here")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func number(it item, what string) (*uint64, error) {
	if it.major != majorUint {
		return nil, bad("%s is no number", what)
	}
	return &it.n, nil
}

func measured(it item) (k Key, err error) {
	switch it.major {
	case majorUint:
		return Key{Number: &it.n}, nil
	case majorText:
		k.Text, err = printable(it, "mkey")
		return k, err
	}
	k.Name, err = identifier(it)
	return k, err
}

func identifier(it item) (Name, error) {
	// Tag 0 is a date, and the Tag of no identifier.
	if it.major != majorTag || it.n == 0 || len(it.raw) > maxID {
		return Name{}, bad("an identifier has no tag, that of a date, or more than %d bytes", maxID)
	}
	content := it.list[0]
	switch it.n {
	case tagUUID, tagOID, tagBytes:
		if content.major != majorBytes || it.n == tagUUID && len(content.text) != 16 {
			return Name{}, bad("an identifier is not of its tag's form")
		}
		return Name{Tag: it.n, Bytes: content.text}, nil
	}
	return Name{Tag: it.n, Bytes: it.raw}, nil
}

func (r reader) values(m item, v *Value) (err error) {
	for i := 0; i < len(m.list); i += 2 {
		value := m.list[i+1]
		switch label(m.list[i]) {
		case "0":
			text, _ := value.get(0)
			v.Version, err = printable(text, "version")
			r.rest(value, "a version", "0")
		case "1":
			v.SVN, v.MinSVN, err = svn(value)
		case "2":
			v.Digests, err = digests(value)
		case "4":
			if raw, ok := value.untag(tagBytes); ok && raw.major == majorBytes {
				v.Raw = Hex(raw.text)
				break
			}
			r.pass("a raw value of another kind")
		case "11":
			v.Name, err = printable(value, "name")
		default:
			r.pass("values of another kind (%s)", label(m.list[i]))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func svn(it item) (exact, least *uint64, err error) {
	if it.major == majorUint {
		return &it.n, nil, nil
	}
	if n, ok := it.untag(tagSVN); ok && n.major == majorUint {
		return &n.n, nil, nil
	}
	if n, ok := it.untag(tagMinSVN); ok && n.major == majorUint {
		return nil, &n.n, nil
	}
	return nil, nil, bad("an svn is no number")
}

func digests(it item) ([]Digest, error) {
	if it.major != majorArray || len(it.list) == 0 {
		return nil, bad("digests is no array, or an empty one")
	}
	var out []Digest
	seen := map[Algorithm]bool{}
	for _, d := range it.list {
		if d.major != majorArray || len(d.list) != 2 || d.list[1].major != majorBytes {
			return nil, bad("a digest is not an algorithm and bytes")
		}
		alg, err := hashAlgorithm(d.list[0])
		if err != nil {
			return nil, err
		}
		value := d.list[1].text
		if size := alg.size(); len(value) == 0 || len(value) > 64 || size != 0 && size != len(value) {
			return nil, bad("a %s digest has %d bytes", alg, len(value))
		}
		if seen[alg] {
			return nil, bad("digests names an algorithm twice")
		}
		seen[alg] = true
		out = append(out, Digest{Algorithm: alg, Value: Hex(value)})
	}
	return out, nil
}

func hashAlgorithm(it item) (Algorithm, error) {
	if it.major == majorUint && it.n > 0 {
		return Algorithm(it.n), nil
	}
	for _, alg := range []Algorithm{SHA256, SHA384, SHA512} {
		if it.major == majorText && string(it.text) == alg.String() {
			return alg, nil
		}
	}
	return 0, bad("a digest's algorithm is not known here")
}

// name reads an id: text, or a UUID with or without its tag.
func name(m item, key uint64, what string) (string, error) {
	it, ok := m.get(key)
	if !ok {
		return "", bad("%s is missing", what)
	}
	if content, ok := it.untag(tagUUID); ok {
		it = content
	}
	if it.major == majorBytes && len(it.text) == 16 {
		return uuidText(it.text), nil
	}
	return printable(it, what)
}

// entity is the name of who has the role; empty if nobody has.
func entity(list item, role uint64) (string, error) {
	if list.major != majorArray || len(list.list) == 0 {
		return "", bad("entities is no array, or an empty one")
	}
	for _, e := range list.list {
		roles, _ := e.get(2)
		if roles.major != majorArray {
			return "", bad("an entity has no roles")
		}
		for _, has := range roles.list {
			if has.major == majorUint && has.n == role {
				text, _ := e.get(0)
				return printable(text, "entity-name")
			}
		}
	}
	return "", nil
}

// validity reads a period, whose end has to be given.
func validity(it item) (from, to time.Time, err error) {
	end, ok := it.get(1)
	if !ok {
		return from, to, bad("a validity has no end")
	}
	if to, err = instant(end); err != nil {
		return from, to, err
	}
	if begin, ok := it.get(0); ok {
		if from, err = instant(begin); err != nil {
			return from, to, err
		}
		if from.After(to) {
			return from, to, bad("a validity ends before it begins")
		}
	}
	return from, to, nil
}

// instant reads seconds since 1970, with or without the tag of a time, up to the year 9999.
func instant(it item) (time.Time, error) {
	if content, ok := it.untag(tagTime); ok {
		it = content
	}
	const lastSecond = 253402300799
	if it.major != majorUint || it.n == 0 || it.n > lastSecond {
		return time.Time{}, bad("a time is not in whole seconds since 1970")
	}
	return time.Unix(int64(it.n), 0).UTC(), nil
}

// printable is text that shows on one line as it is.
func printable(it item, what string) (string, error) {
	if it.major != majorText || len(it.text) == 0 || len(it.text) > maxText {
		return "", bad("%s is not text of 1 to %d bytes", what, maxText)
	}
	for _, r := range string(it.text) {
		if !unicode.IsPrint(r) {
			return "", bad("%s has a character that does not print", what)
		}
	}
	return string(it.text), nil
}
