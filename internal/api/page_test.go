package api

import (
	"bytes"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/eosc-siesta/siestad/internal/api/gen"
)

// TestAListLooksSoFarAndNoFurther: what a caller may not see costs a bounded look, and the list goes on behind it.
func TestAListLooksSoFarAndNoFurther(t *testing.T) {
	cursors, err := newCursors(make([]byte, 32))
	must(t, err)
	p := pager{cursors: cursors, limit: 1}
	const visible = 50
	var looks, pages int
	var cursor gen.Cursor
	for found := false; !found; pages++ {
		after, err := p.after(&cursor)
		must(t, err)
		looks = 0
		items, next, err := sift(p, after, func(after string) (list []int, err error) {
			looks++
			for n := len(after) + 1; n <= visible && len(list) < p.limit+1; n++ {
				list = append(list, n)
			}
			return list, nil
		}, func(n int) string { return strings.Repeat("x", n) }, func(n int) (bool, error) { return n == visible, nil }, func(n int) int { return n })
		must(t, err)
		if looks > maxLooks || pages > visible {
			t.Fatalf("page %d: %d looks", pages, looks)
		}
		if found = len(items) > 0; found && (items[0] != visible || next != nil) || !found && next == nil {
			t.Fatalf("page %d: %v, next %v", pages, items, next)
		}
		if next != nil {
			cursor = *next
			if raw, err := base64.RawURLEncoding.DecodeString(cursor); err != nil || bytes.Contains(raw, []byte("xxxx")) {
				t.Fatalf("page %d: the cursor tells what may not be seen: %q %v", pages, raw, err)
			}
		}
	}
	if want := (visible + 2*maxLooks - 1) / (2 * maxLooks); pages != want {
		t.Errorf("found on page %d, want %d", pages, want)
	}
}
