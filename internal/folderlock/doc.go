// Package folderlock locks a folder among programs.
package folderlock
