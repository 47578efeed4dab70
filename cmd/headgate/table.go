package main

import (
	"bytes"
	"io"
	"strings"
	"unicode/utf8"
)

// maxColumn bounds a column's width in characters; what is longer sticks out.
const maxColumn = 72

// table is text in aligned columns, two blanks apart.
type table struct{ rows [][]string }

func newTable(head ...string) *table { return &table{[][]string{head}} }

func (t *table) row(cells ...string) {
	for i, c := range cells {
		if c == "" {
			c = "-"
		}
		cells[i] = strings.ReplaceAll(c, "\n", " ")
	}
	t.rows = append(t.rows, cells)
}

func (t *table) write(w io.Writer) error {
	widths := make([]int, len(t.rows[0]))
	for _, row := range t.rows {
		for i, c := range row {
			if n := utf8.RuneCountInString(c); n <= maxColumn {
				widths[i] = max(widths[i], n)
			}
		}
	}
	var out bytes.Buffer
	for _, row := range t.rows {
		for i, c := range row {
			out.WriteString(c)
			if i < len(row)-1 {
				out.WriteString(strings.Repeat(" ", max(0, widths[i]-utf8.RuneCountInString(c))+2))
			}
		}
		out.WriteByte('\n')
	}
	_, err := w.Write(out.Bytes())
	return err
}
