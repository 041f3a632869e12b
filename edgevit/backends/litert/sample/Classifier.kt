// The model of this folder in an Android app: classes of a picture, with probabilities.
//
// Put the .tflite and model.json into app/src/main/assets, this file beside your sources, and into build.gradle:
//   implementation("com.google.ai.edge.litert:litert:2.3.0")
// Then: Classifier(context.assets).use { println(it.classify(bitmap).first()) }
// Files are read and the model is prepared once: keep the object, and call it from one thread that is not the main one.

import android.content.res.AssetManager
import android.graphics.Bitmap
import com.google.ai.edge.litert.Accelerator
import com.google.ai.edge.litert.CompiledModel
import org.json.JSONArray
import org.json.JSONObject
import kotlin.math.exp
import kotlin.math.max
import kotlin.math.roundToInt

data class Guess(val name: String, val probability: Float)

class Classifier(assets: AssetManager, accelerator: Accelerator = Accelerator.CPU) : AutoCloseable {
    private val model = JSONObject(assets.open("model.json").bufferedReader().use { it.readText() })
    private val input = model.getJSONObject("input")
    private val height = input.getJSONArray("size").getInt(0)
    private val width = input.getJSONArray("size").getInt(1)
    private val resizedHeight = input.getJSONArray("resize").getInt(0)
    private val resizedWidth = input.getJSONArray("resize").getInt(1)
    private val squash = input.getString("crop_mode") == "squash"
    private val channels = input.getString("channels")
    private val mean = floats(input.getJSONArray("mean"))
    private val deviation = floats(input.getJSONArray("std"))
    private val labels = model.getJSONArray("labels")
    private val compiled = CompiledModel.create(assets, model.getString("file"), CompiledModel.Options(accelerator))
    private val inputs = compiled.createInputBuffers()
    private val outputs = compiled.createOutputBuffers()

    /** The classes of a picture, the likeliest first. */
    fun classify(picture: Bitmap): List<Guess> {
        inputs[0].writeFloat(prepared(picture))
        compiled.run(inputs, outputs)
        val scores = outputs[0].readFloat()
        var most = scores[0]
        for (score in scores) most = max(most, score)
        val shares = FloatArray(scores.size) { exp(scores[it] - most) }
        val sum = shares.sum()
        return shares.indices.sortedByDescending { shares[it] }.map {
            Guess(if (it < labels.length()) labels.getString(it) else "class $it", shares[it] / sum)
        }
    }

    /** Resized, cropped in the middle and normalised, [height, width, channels]. */
    private fun prepared(picture: Bitmap): FloatArray {
        val scale = max(resizedWidth.toFloat() / picture.width, resizedHeight.toFloat() / picture.height)
        val toWidth = if (squash) resizedWidth else max(width, (picture.width * scale).roundToInt())
        val toHeight = if (squash) resizedHeight else max(height, (picture.height * scale).roundToInt())
        var resized = picture
        // Android's filter looks at four pixels only: large pictures are halved first, or details become noise.
        while (resized.width >= 2 * toWidth && resized.height >= 2 * toHeight) {
            resized = Bitmap.createScaledBitmap(resized, resized.width / 2, resized.height / 2, true)
        }
        resized = Bitmap.createScaledBitmap(resized, toWidth, toHeight, true)
        val colours = IntArray(width * height)
        resized.getPixels(colours, 0, width, (toWidth - width) / 2, (toHeight - height) / 2, width, height)
        val values = FloatArray(colours.size * mean.size)
        for (at in colours.indices) {
            val red = (colours[at] shr 16 and 255) / 255f
            val green = (colours[at] shr 8 and 255) / 255f
            val blue = (colours[at] and 255) / 255f
            val ordered = when (channels) {
                "BGR" -> floatArrayOf(blue, green, red)
                "L" -> floatArrayOf(0.299f * red + 0.587f * green + 0.114f * blue)
                else -> floatArrayOf(red, green, blue)
            }
            for (channel in ordered.indices) {
                values[at * ordered.size + channel] = (ordered[channel] - mean[channel]) / deviation[channel]
            }
        }
        return values
    }

    private fun floats(given: JSONArray) = FloatArray(given.length()) { given.getDouble(it).toFloat() }

    override fun close() {
        (inputs + outputs).forEach { it.close() }
        compiled.close()
    }
}
