//go:build !devtee

package main

const banner = "started"
