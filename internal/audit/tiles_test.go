package audit

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
)

// webTiles reads tiles over HTTP as any client of the layout does.
type webTiles struct {
	t    *testing.T
	base string
}

func (w webTiles) Height() int { return tileHeight }

func (w webTiles) SaveTiles([]tlog.Tile, [][]byte) {}

func (w webTiles) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	out := make([][]byte, len(tiles))
	for i, tile := range tiles {
		// The path of the library, without its height.
		path := "/tile" + strings.TrimPrefix(tile.Path(), fmt.Sprintf("tile/%d", tileHeight))
		status, body := w.get(path)
		if status != http.StatusOK {
			return nil, fmt.Errorf("%s: %d", path, status)
		}
		out[i] = body
	}
	return out, nil
}

func (w webTiles) get(path string) (int, []byte) {
	w.t.Helper()
	answer, err := http.Get(w.base + path)
	if err != nil {
		w.t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return answer.StatusCode, body
}

func TestTilesOverHTTP(t *testing.T) {
	r := newRig(t)
	l := r.log()
	server := httptest.NewServer(l.Tiles())
	t.Cleanup(server.Close)
	web := webTiles{t, server.URL}
	if status, _ := web.get("/checkpoint"); status != http.StatusNotFound {
		t.Errorf("a log never started: %d", status)
	}
	r.start(l)
	r.fill(l, 600)
	status, text := web.get("/checkpoint")
	if status != http.StatusOK {
		t.Fatalf("checkpoint: %d", status)
	}
	head, err := l.verify.Checkpoint(text)
	if err != nil {
		t.Fatal(err)
	}
	reader := tlog.TileHashReader(tlog.Tree{N: head.Size, Hash: head.Root}, web)
	for _, index := range []int64{0, 255, 256, 511, 512, 599} {
		proof, err := tlog.ProveRecord(head.Size, index, reader)
		if err != nil {
			t.Fatal(err)
		}
		if err := tlog.CheckRecord(proof, head.Size, head.Root, index, r.get(l, index).LeafHash); err != nil {
			t.Error(err)
		}
	}
	for path, entries := range map[string]int64{"/tile/entries/001": 256, "/tile/entries/002.p/88": 88, "/tile/entries/000.p/3": 3} {
		status, bundle := web.get(path)
		if status != http.StatusOK {
			t.Fatalf("%s: %d", path, status)
		}
		var group int64
		if _, err := fmt.Sscanf(path, "/tile/entries/%d", &group); err != nil {
			t.Fatal(err)
		}
		n := int64(0)
		for ; len(bundle) >= 2; n++ {
			length := int(binary.BigEndian.Uint16(bundle))
			if tlog.RecordHash(bundle[2:2+length]) != r.get(l, group*tileWidth+n).LeafHash {
				t.Fatalf("%s: entry %d differs", path, n)
			}
			bundle = bundle[2+length:]
		}
		if n != entries || len(bundle) != 0 {
			t.Errorf("%s: %d entries and %d bytes over", path, n, len(bundle))
		}
	}
	for _, path := range []string{
		"/tile/0/003", "/tile/0/002", "/tile/0/002.p/89", "/tile/1/000", "/tile/entries/002", "/tile/6/000",
		"/tile/7/000", "/tile/-1/000", "/tile/00/000", "/tile/0/0", "/tile/0/0000", "/tile/0/x000/001", "/tile/0/000.p/0",
		"/tile/0/000.p/256", "/tile/0/000.p/01", "/tile/0/abc", "/tile/0/x001", "/tile/0/", "/tile/0", "/tile/entries", "/",
		"/tile/0/x999/x999/x999/x999/x999/999",
	} {
		if status, _ := web.get(path); status != http.StatusNotFound {
			t.Errorf("%s: %d", path, status)
		}
	}
	if status, data := web.get("/tile/1/000.p/2"); status != http.StatusOK || len(data) != 64 {
		t.Errorf("the partial tile of level 1: %d, %d bytes", status, len(data))
	}
	answer, err := http.Post(server.URL+"/checkpoint", "text/plain", nil)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", answer.StatusCode)
	}
}

func TestParseTilePath(t *testing.T) {
	for path, want := range map[string]tlog.Tile{
		"0/000":                {H: 8, L: 0, N: 0, W: 256},
		"1/x001/234":           {H: 8, L: 1, N: 1234, W: 256},
		"6/x001/x234/067.p/17": {H: 8, L: 6, N: 1234067, W: 17},
	} {
		if got, entries, err := parseTilePath(path); err != nil || entries || got != want {
			t.Errorf("%s: %+v %v", path, got, err)
		}
	}
}
