package sample

import "testing"

func TestAdmits(t *testing.T) {
	for _, x := range []struct {
		age    int
		barred bool
		want   bool
	}{{17, false, false}, {18, false, true}, {30, true, false}, {3, true, false}} {
		if admits(x.age, x.barred) != x.want {
			t.Errorf("%d, %v: not %v", x.age, x.barred, x.want)
		}
	}
}

func TestLarger(t *testing.T) {
	if larger(1, 2) != 2 || larger(2, 1) != 2 || larger(3, 3) != 3 {
		t.Error("not the larger")
	}
}

func TestSum(t *testing.T) {
	if sum(3) != 6 || sum(0) != 0 {
		t.Error("not the sum")
	}
}

func TestFlagged(t *testing.T) {
	if flagged(7) || !flagged(9) {
		t.Error("another flag")
	}
}

func TestBegin(t *testing.T) {
	s := &state{}
	if !begin(s) || s.count != 1 {
		t.Error("not begun")
	}
}
