// Lists the samples of MP4s as mp4box.js finds them in tables or fragments: of each file a line of JSON, of each track
// in it an array of samples, of each sample offset, size, decode time, composition time, duration and whether it is a
// sync sample. Times are in units of the media.

const { readFileSync } = require('node:fs');
const { createFile, MP4BoxBuffer } = require('mp4box');

const fields = (s) => [s.offset, s.size, s.dts, s.cts, s.duration, s.is_sync];

for (const name of process.argv.slice(2)) {
  const bytes = readFileSync(name);
  const file = createFile();
  file.onError = (module, message) => {
    throw new Error(`${name}: ${module}: ${message}`);
  };
  file.appendBuffer(MP4BoxBuffer.fromArrayBuffer(new Uint8Array(bytes).buffer, 0), true);
  file.flush();
  console.log(JSON.stringify(file.moov.traks.map((trak) => trak.samples.map(fields))));
}
