package audit

import (
	"fmt"

	"golang.org/x/mod/sumdb/tlog"
)

const (
	tileHeight = 8
	tileWidth  = 1 << tileHeight
	tileLevels = 7 // 2^56 entries
)

// nodes are the hashes within one tile: row 0 the tile's own, row h the roots
// of its complete subtrees of height h. Rows only grow, and a tile that is
// complete is replaced, never cleared, so a copy of the headers is a snapshot.
type nodes [tileHeight + 1][]tlog.Hash

func newNodes() nodes {
	var n nodes
	backing := make([]tlog.Hash, 2*tileWidth)
	for h, at := 0, 0; h <= tileHeight; h++ {
		width := tileWidth >> h
		n[h] = backing[at : at : at+width]
		at += width
	}
	return n
}

// push adds a hash and every subtree that it completes.
func (n *nodes) push(hash tlog.Hash) {
	n[0] = append(n[0], hash)
	for h := 0; h < tileHeight && len(n[h])%2 == 0; h++ {
		last := len(n[h])
		n[h+1] = append(n[h+1], tlog.NodeHash(n[h][last-2], n[h][last-1]))
	}
}

func (n *nodes) full() bool { return len(n[tileHeight]) == 1 }

func (n *nodes) data() []byte {
	out := make([]byte, 0, len(n[0])*tlog.HashSize)
	for i := range n[0] {
		out = append(out, n[0][i][:]...)
	}
	return out
}

// doneTile is a completed tile.
type doneTile struct {
	level int
	index int64
	nodes nodes
}

// edge is the right edge of the tree: the partial tile of each level. Copies
// are snapshots; growing one leaves the other as it was.
type edge struct {
	size   int64
	levels [tileLevels]nodes
}

func newEdge() edge {
	var e edge
	for level := range e.levels {
		e.levels[level] = newNodes()
	}
	return e
}

// grow adds leaves and returns the tiles that they complete.
func (e *edge) grow(leaves []tlog.Hash) []doneTile {
	var done []doneTile
	for _, hash := range leaves {
		e.size++
		for level := 0; level < tileLevels; level++ {
			tile := &e.levels[level]
			tile.push(hash)
			if !tile.full() {
				break
			}
			done = append(done, doneTile{level, e.size>>(tileHeight*(level+1)) - 1, *tile})
			hash = tile[tileHeight][0]
			*tile = newNodes()
		}
	}
	return done
}

// tree returns the head of the tree: every odd row ends in a peak.
func (e *edge) tree() tlog.Tree {
	if e.size == 0 {
		empty, _ := tlog.TreeHash(0, nil) // the hash of the empty string, no reader needed
		return tlog.Tree{N: 0, Hash: empty}
	}
	var root tlog.Hash
	found := false
	for level := range e.levels {
		for h := range tileHeight {
			row := e.levels[level][h]
			if len(row)%2 == 0 {
				continue
			}
			if peak := row[len(row)-1]; found {
				root = tlog.NodeHash(peak, root)
			} else {
				root, found = peak, true
			}
		}
	}
	return tlog.Tree{N: e.size, Hash: root}
}

// snapshot is a durable, signed head with what proves the entries of its batch.
type snapshot struct {
	tree       tlog.Tree
	checkpoint []byte
	edge       edge
	done       []doneTile
}

// receipt proves an entry of the snapshot's own batch from memory: each node
// on its path lies in a tile of the right edge, or in one the batch completed.
func (s *snapshot) receipt(index int64) (Receipt, error) {
	proof, err := tlog.ProveRecord(s.tree.N, index, tlog.HashReaderFunc(s.readHashes))
	if err != nil {
		return Receipt{}, fmt.Errorf("proving entry %d: %w", index, err)
	}
	return formatReceipt(index, proof, s.checkpoint), nil
}

func (s *snapshot) readHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, stored := range indexes {
		level, n := tlog.SplitStoredHashIndex(stored)
		row := level % tileHeight
		tile, at := n>>(tileHeight-row), n&(1<<(tileHeight-row)-1)
		found := s.tile(level/tileHeight, tile)
		if found == nil || at >= int64(len(found[row])) {
			return nil, fmt.Errorf("node %d of level %d is not at the edge", n, level)
		}
		out[i] = found[row][at]
	}
	return out, nil
}

func (s *snapshot) tile(level int, index int64) *nodes {
	if level < tileLevels && index == s.edge.size>>(tileHeight*(level+1)) {
		return &s.edge.levels[level]
	}
	for i := range s.done {
		if s.done[i].level == level && s.done[i].index == index {
			return &s.done[i].nodes
		}
	}
	return nil
}
