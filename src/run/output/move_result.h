// The staged result goes into OUT file by file, where the two folders cannot be exchanged.
#pragma once

#include "platform/folder.h"
#include "write/manifest.h"

namespace metal_marlin {

// Moves the result from the journal folder into `output` and removes what `old` lists beside it. config.json, without
// which no reader accepts a folder, and the lists of files go last, in this order; an old config.json goes first. The
// names are noted in place.json before the first file moves: the same call ends what an interruption left.
void move_result(const Folder& journal, const Manifest& old, const Folder& output);

}  // namespace metal_marlin
