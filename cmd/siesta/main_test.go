package main

import (
	"io"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// TestEveryCommandSaysItsUse: none takes what it does not know, and each says what it takes.
func TestEveryCommandSaysItsUse(t *testing.T) {
	n := 0
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		err := cmd.Args(cmd, []string{"1", "2", "3", "4"})
		if cmd.HasSubCommands() {
			err = cmd.RunE(cmd, []string{"1"})
		}
		if err == nil || !strings.Contains(err.Error(), cmd.CommandPath()) || !strings.Contains(err.Error(), "\n  next: ") {
			t.Errorf("%s: %v", cmd.CommandPath(), err)
		}
		n++
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	if walk(newRoot(io.Discard, io.Discard)); n < 60 {
		t.Errorf("%d commands", n)
	}
}
