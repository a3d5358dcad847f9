"""What happens between Lightning's steps and epochs."""
