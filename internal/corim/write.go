package corim

import "time"

// write encodes a document; Sign looks whether it can be read back.
func write(d Document) []byte {
	var tags [][]byte
	for _, t := range d.Tags {
		tags = append(tags, encodeTag(tagComid, encodeBytes(writeTag(t))))
	}
	m := map[int64][]byte{0: encodeText(d.ID), 1: encodeArray(tags...)}
	if d.Profile != "" {
		m[3] = encodeTag(tagURI, encodeText(d.Profile))
	}
	if !d.NotAfter.IsZero() {
		m[4] = writeValidity(d.NotBefore, d.NotAfter)
	}
	m[5] = writeEntity(d.Author, 1)
	return encodeTag(tagUnsigned, encodeMap(m))
}

func writeTag(t Tag) []byte {
	identity := map[int64][]byte{0: encodeText(t.ID)}
	if t.Version > 0 {
		identity[1] = head(majorUint, t.Version)
	}
	var triples [][]byte
	for _, v := range t.Values {
		triples = append(triples, encodeArray(writeEnvironment(v.Environment), encodeArray(writeMeasurement(v))))
	}
	return encodeMap(map[int64][]byte{
		1: encodeMap(identity),
		2: writeEntity(t.Author, 0),
		4: encodeMap(map[int64][]byte{0: encodeArray(triples...)}),
	})
}

func writeEntity(name string, role uint64) []byte {
	if name == "" {
		return nil
	}
	return encodeArray(encodeMap(map[int64][]byte{0: encodeText(name), 2: encodeArray(head(majorUint, role))}))
}

func writeEnvironment(e Environment) []byte {
	m := map[int64][]byte{1: writeName(e.Instance), 2: writeName(e.Group)}
	class := map[int64][]byte{
		0: writeName(e.Class), 1: optionalText(e.Vendor), 2: optionalText(e.Model), 3: optionalNumber(e.Layer), 4: optionalNumber(e.Index),
	}
	if c := encodeMap(class); len(c) > 1 { // one byte is an empty map
		m[0] = c
	}
	return encodeMap(m)
}

func writeMeasurement(v Value) []byte {
	values := map[int64][]byte{11: optionalText(v.Name)}
	if v.Version != "" {
		values[0] = encodeMap(map[int64][]byte{0: encodeText(v.Version)})
	}
	if v.SVN != nil {
		values[1] = encodeTag(tagSVN, head(majorUint, *v.SVN))
	}
	if v.MinSVN != nil {
		values[1] = encodeTag(tagMinSVN, head(majorUint, *v.MinSVN))
	}
	var list [][]byte
	for _, d := range v.Digests {
		list = append(list, encodeArray(head(majorUint, uint64(d.Algorithm)), encodeBytes(d.Value)))
	}
	if list != nil {
		values[2] = encodeArray(list...)
	}
	if v.Raw != nil {
		values[4] = encodeTag(tagBytes, encodeBytes(v.Raw))
	}
	return encodeMap(map[int64][]byte{0: writeKey(v.Key), 1: encodeMap(values)})
}

func writeKey(k Key) []byte {
	switch {
	case k.Number != nil:
		return head(majorUint, *k.Number)
	case k.Text != "":
		return encodeText(k.Text)
	}
	return writeName(k.Name)
}

func writeName(n Name) []byte {
	switch n.Tag {
	case 0:
		return nil
	case tagUUID, tagOID, tagBytes:
		return encodeTag(n.Tag, encodeBytes(n.Bytes))
	}
	return n.Bytes
}

func optionalText(s string) []byte {
	if s == "" {
		return nil
	}
	return encodeText(s)
}

func optionalNumber(n *uint64) []byte {
	if n == nil {
		return nil
	}
	return head(majorUint, *n)
}

func writeValidity(from, to time.Time) []byte {
	m := map[int64][]byte{1: writeTime(to)}
	if !from.IsZero() {
		m[0] = writeTime(from)
	}
	return encodeMap(m)
}

func writeTime(t time.Time) []byte { return encodeTag(tagTime, encodeInt(t.Unix())) }
