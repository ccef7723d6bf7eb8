package audit

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

// BadLog says where a log is not what was signed: at First, or if that cannot
// be told apart, somewhere from First to Last.
type BadLog struct {
	First, Last int64
	Problem     string
}

func (b *BadLog) Error() string {
	if b.First == b.Last {
		return fmt.Sprintf("first bad index is %d: %s", b.First, b.Problem)
	}
	return fmt.Sprintf("first bad index is within %d to %d: %s", b.First, b.Last, b.Problem)
}

func bad(index int64, format string, args ...any) *BadLog {
	return &BadLog{index, index, fmt.Sprintf(format, args...)}
}

// Summary is what a verified export proves.
type Summary struct {
	Checkpoint Checkpoint // the newest
	Batches    int64      // signed heads verified on the way
}

// VerifyExport checks an export offline: that indexes are dense, that every
// body hashes to its leaf, that the leaves give every signed head, that every
// stored tile is theirs, that no entry stands there twice, and, if an earlier
// checkpoint is given, that the log still extends it. It reads the input once,
// keeps 16 bytes of each entry, and ends on any input. A *BadLog names the first
// bad index.
func (v Verifier) VerifyExport(r io.Reader, saved *Checkpoint) (Summary, error) {
	if v.note == nil {
		return Summary{}, errors.New("verifying export: no key")
	}
	c := &exportCheck{verifier: v, in: newExportReader(r), edge: newEdge(), saved: saved}
	if err := c.run(); err != nil {
		return Summary{}, fmt.Errorf("verifying export: %w", err)
	}
	return Summary{c.head, c.batches}, nil
}

// exportCheck is the state of one pass over an export.
type exportCheck struct {
	verifier Verifier
	in       *exportReader
	saved    *Checkpoint

	edge    edge
	head    Checkpoint
	batches int64
	ids     []placedID
	tiles   map[tileKey][sha256.Size]byte // what stored tiles must be

	// suspect is the first batch whose leaves agree with its bodies but not
	// with its signed head: both were changed. The tiles, which come last, may
	// still tell which entry it is.
	suspect *BadLog
	leaves  []tlog.Hash // of the suspect batch
}

func (c *exportCheck) run() error {
	if err := c.in.expect(exportHeader); err != nil {
		return err
	}
	if err := c.in.expect("origin " + c.verifier.origin); err != nil {
		return fmt.Errorf("the export is not of this log: %w", err)
	}
	c.tiles = make(map[tileKey][sha256.Size]byte)
	line, err := c.in.line()
	for ; err == nil && strings.HasPrefix(line, "batch "); line, err = c.in.line() {
		if err := c.batch(line); err != nil {
			return err
		}
		if c.suspect != nil {
			return c.locate()
		}
	}
	if err != nil {
		return err
	}
	if strings.HasPrefix(line, "entry ") {
		return bad(c.edge.size, "there are entries that no signed head covers")
	}
	for ; err == nil && strings.HasPrefix(line, "tile "); line, err = c.in.line() {
		if err := c.tile(line); err != nil {
			return err
		}
	}
	if err != nil {
		return err
	}
	for key := range c.tiles {
		return badTile(key, "the stored tile is missing")
	}
	if line != fmt.Sprintf("end %d", c.edge.size) {
		return fmt.Errorf("the export does not end as it should after %d entries", c.edge.size)
	}
	if err := c.in.end(); err != nil {
		return err
	}
	if c.batches == 0 {
		return errors.New("the export has no checkpoint at all")
	}
	if err := c.compareSaved(); err != nil {
		return err
	}
	return c.repeated()
}

// placedID is where an id was found.
type placedID struct {
	id    ID
	index int64
}

// repeated names the first entry that stood in the log before: somebody had it
// signed a second time. It needs the whole log and so comes last.
func (c *exportCheck) repeated() error {
	slices.SortFunc(c.ids, func(a, b placedID) int { return cmp.Or(cmp.Compare(a.id, b.id), cmp.Compare(a.index, b.index)) })
	var first *BadLog
	for i := 1; i < len(c.ids); i++ {
		if at := c.ids[i].index; c.ids[i].id == c.ids[i-1].id && (first == nil || at < first.First) {
			first = bad(at, "the entry stands in the log before, at %d", c.ids[i-1].index)
		}
	}
	if first == nil {
		return nil
	}
	return first
}

// batch checks one batch: its entries against its leaves, then the tree against
// the batch's signed head.
func (c *exportCheck) batch(line string) error {
	first, count, stored, err := parseBatchLine(line)
	if err != nil {
		return err
	}
	size := c.edge.size
	switch {
	case first != size:
		return bad(min(size, first), "after entry %d comes a batch that begins at %d", size-1, first)
	case int64(len(stored)) != count*tlog.HashSize:
		return &BadLog{first, first + max(count, 1) - 1, "the batch's leaf hashes are not as many as its entries"}
	}
	leaves := make([]tlog.Hash, 0, count)
	for index := first; index < first+count; index++ {
		body, err := c.in.entry(index)
		if err != nil {
			return err
		}
		leaf := tlog.RecordHash(body)
		if want := stored[(index-first)*tlog.HashSize:][:tlog.HashSize]; !bytes.Equal(leaf[:], want) {
			return bad(index, "the stored entry does not hash to its leaf")
		}
		leaves = append(leaves, leaf)
		if id := idOf(body); id != 0 {
			c.ids = append(c.ids, placedID{id, index})
		}
	}
	text, err := c.in.checkpoint(first + count)
	if err != nil {
		return err
	}
	fork := c.grow(leaves)
	last := max(first+count-1, first)
	signed, err := c.verifier.Checkpoint(text)
	switch {
	case err != nil:
		return &BadLog{first, last, "the stored checkpoint is not one that was signed"}
	case signed.Size != first+count:
		return &BadLog{first, last, fmt.Sprintf("the checkpoint is signed for size %d instead of %d", signed.Size, first+count)}
	case signed.Root != c.edge.tree().Hash:
		c.suspect = &BadLog{first, last, "the stored entries are not those that the checkpoint was signed for"}
		c.leaves = leaves
	case fork != nil:
		return fork
	}
	c.head, c.batches = signed, c.batches+1
	return nil
}

// grow adds leaves to the tree, stopping at the size of the saved checkpoint to
// compare roots. Its error counts only if the batch is as it was signed.
func (c *exportCheck) grow(leaves []tlog.Hash) error {
	var fork error
	if c.saved != nil && c.edge.size < c.saved.Size && c.saved.Size <= c.edge.size+int64(len(leaves)) {
		until := c.saved.Size - c.edge.size
		c.add(leaves[:until])
		leaves = leaves[until:]
		if c.edge.tree().Hash != c.saved.Root {
			fork = &BadLog{0, c.saved.Size - 1, fmt.Sprintf(
				"the log is not the one that the saved checkpoint of size %d was signed for: it was rolled back and forked, or rewritten", c.saved.Size)}
		}
	}
	c.add(leaves)
	return fork
}

func (c *exportCheck) add(leaves []tlog.Hash) {
	for _, tile := range c.edge.grow(leaves) {
		c.tiles[tileKey{tile.level, tile.index}] = sha256.Sum256(tile.nodes.data())
	}
}

func (c *exportCheck) compareSaved() error {
	if c.saved == nil {
		return nil
	}
	if c.saved.Origin != c.verifier.origin {
		return fmt.Errorf("the saved checkpoint is of log %q", c.saved.Origin)
	}
	if c.saved.Size > c.edge.size {
		return bad(c.edge.size, "the log was rolled back: it has %d entries, and had %d when the saved checkpoint was signed", c.edge.size, c.saved.Size)
	}
	return nil
}

func (c *exportCheck) tile(line string) error {
	key, data, err := parseTileLine(line)
	if err != nil {
		return err
	}
	want, ok := c.tiles[key]
	if !ok {
		return badTile(key, "there is a stored tile that the log should not have, or twice")
	}
	if sha256.Sum256(data) != want {
		return badTile(key, "the stored tile is not that of the entries")
	}
	delete(c.tiles, key)
	return nil
}

// badTile names the entries under a tile.
func badTile(key tileKey, problem string) *BadLog {
	width := int64(1) << (tileHeight * (key.level + 1))
	return &BadLog{key.index * width, (key.index+1)*width - 1, fmt.Sprintf("tile %d/%d: %s", key.level, key.index, problem)}
}

// locate reads on to the tiles, to find which entries of the suspect batch were
// changed together with their leaves. Without a tile the whole batch is named.
func (c *exportCheck) locate() error {
	found := c.suspect
	for {
		line, err := c.in.skipTo("tile ")
		if err != nil {
			return found // whatever else is wrong with the export comes later
		}
		key, data, err := parseTileLine(line)
		if err != nil {
			return found
		}
		start := key.index * tileWidth
		if key.level != 0 || start > found.Last || start+tileWidth <= found.First {
			continue
		}
		for index := max(start, found.First); index <= min(start+tileWidth-1, found.Last); index++ {
			stored := data[(index-start)*tlog.HashSize:][:tlog.HashSize]
			if leaf := c.leaves[index-found.First]; !bytes.Equal(leaf[:], stored) {
				return bad(index, "%s", found.Problem)
			}
		}
	}
}

// VerifyConsistency checks that next extends old, given the proof.
func VerifyConsistency(old, next Checkpoint, proof tlog.TreeProof) error {
	switch {
	case old.Origin != next.Origin:
		return fmt.Errorf("verifying consistency: %q and %q are different logs", old.Origin, next.Origin)
	case old.Size > next.Size:
		return fmt.Errorf("verifying consistency: the log went back from %d entries to %d", old.Size, next.Size)
	case old.Size == next.Size && old.Root != next.Root:
		return fmt.Errorf("verifying consistency: two different logs of size %d were signed", old.Size)
	case old.Size == next.Size || old.Size == 0:
		if len(proof) != 0 {
			return errors.New("verifying consistency: the proof must be empty here")
		}
		return nil
	}
	if err := tlog.CheckTree(proof, next.Size, next.Root, old.Size, old.Root); err != nil {
		return fmt.Errorf("verifying consistency: size %d does not extend size %d: %w", next.Size, old.Size, err)
	}
	return nil
}

// FormatConsistency writes a consistency proof as lines of base64, one hash each.
func FormatConsistency(proof tlog.TreeProof) string {
	var b strings.Builder
	for _, hash := range proof {
		b.WriteString(hash.String() + "\n")
	}
	return b.String()
}

// ParseConsistency reads what FormatConsistency wrote.
func ParseConsistency(text []byte) (tlog.TreeProof, error) {
	if len(text) > maxReceipt {
		return nil, fmt.Errorf("reading consistency proof: more than %d bytes", maxReceipt)
	}
	trimmed := strings.TrimSuffix(string(text), "\n")
	if trimmed == "" {
		return nil, nil
	}
	hashes, err := parseHashes(strings.Split(trimmed, "\n"))
	if err != nil {
		return nil, fmt.Errorf("reading consistency proof: %w", err)
	}
	return hashes, nil
}
