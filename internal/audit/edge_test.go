package audit

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
)

// TestEdge compares the right edge with the library's plain tree.
func TestEdge(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(indexes))
		for i, x := range indexes {
			out[i] = stored[x]
		}
		return out, nil
	})
	e := newEdge()
	for e.size < 3*tileWidth*tileWidth/2 {
		old := e
		var leaves []tlog.Hash
		for range 1 + random.IntN(1000) {
			record := fmt.Appendf(nil, "%d", old.size+int64(len(leaves)))
			leaves = append(leaves, tlog.RecordHash(record))
			hashes, err := tlog.StoredHashes(old.size+int64(len(leaves))-1, record, reader)
			if err != nil {
				t.Fatal(err)
			}
			stored = append(stored, hashes...)
		}
		done := e.grow(leaves)
		want, err := tlog.TreeHash(e.size, reader)
		if err != nil {
			t.Fatal(err)
		}
		if got := e.tree(); got.N != e.size || got.Hash != want {
			t.Fatalf("size %d: root differs", e.size)
		}
		for _, tile := range done {
			want, err := tlog.ReadTileData(tlog.Tile{H: tileHeight, L: tile.level, N: tile.index, W: tileWidth}, reader)
			if err != nil {
				t.Fatal(err)
			}
			if string(tile.nodes.data()) != string(want) {
				t.Fatalf("tile %d/%d differs", tile.level, tile.index)
			}
		}
		s := snapshot{tree: e.tree(), edge: e, done: done}
		for _, index := range []int64{old.size, old.size + random.Int64N(int64(len(leaves))), e.size - 1} {
			proof, err := tlog.ProveRecord(e.size, index, tlog.HashReaderFunc(s.readHashes))
			if err != nil {
				t.Fatal(err)
			}
			if err := tlog.CheckRecord(proof, e.size, want, index, leaves[index-old.size]); err != nil {
				t.Fatalf("size %d index %d: %v", e.size, index, err)
			}
		}
	}
}
